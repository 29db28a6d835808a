"""The events of people: approvals, and calls in doubt. Read them as `events.ApprovalAsked`, with all others."""

from __future__ import annotations

from understudy.actors.journal.event import Effect, Event


class ApprovalAsked(Event, frozen=True):
    """A call needs a person's yes. The yes will be bound to `digest`, the digest of tool name and exact arguments."""

    approval: str
    step: int
    index: int
    name: str
    arguments: str
    digest: str
    policy: str
    expires: float
    who: tuple[str, ...] = ()
    command: str = ""


class ApprovalGiven(Event, frozen=True):
    """Somebody said yes to exactly `digest`, under the policy as it then was: `version` is a digest of its rule.

    With `arguments` to a call that was changed: with those instead of the ones that were asked for.
    """

    approval: str
    by: str
    digest: str
    policy: str
    arguments: str = ""
    version: str = ""


class ApprovalRefused(Event, frozen=True):
    """Somebody said no, the yes expired (`by` is "clock"), or it no longer fits the call (`by` is "check")."""

    approval: str
    by: str
    reason: str


class InDoubt(Event, frozen=True):
    """A call was in flight when the process ended, and may or may not have happened."""

    doubt: str
    step: int
    index: int
    name: str
    arguments: str
    effect: Effect
    key: str = ""


class DoubtSettled(Event, frozen=True):
    """`did` is True when the call happened. `by` is a person, "verify" or "key"."""

    doubt: str
    did: bool
    by: str
    result: str = ""
