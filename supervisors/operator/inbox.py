"""Questions that wait in a journal, found by what people type, and answers posted to its owner."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import anyio
import msgspec

from understudy.actors.agents.answers import Word, as_json, edited
from understudy.actors.agents.commands import call_digest
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.quarantine import held_in
from understudy.actors.errors import UnknownRun, UsageError
from understudy.actors.journal.events import QUARANTINE, Quarantined
from understudy.actors.journal.state import Doubt, Run, Yes
from understudy.actors.telemetry import scrubbed
from understudy.supervisors.operator.reading import Reader, listed
from understudy.supervisors.operator.text import call_text, clean, shorten

TAKEN_WITHIN: Final = 10.0
"""Seconds that a live owner has to take an answer."""
POLL: Final = 0.1

Q = TypeVar("Q", Yes, Doubt)


async def find_yes(reader: Reader, name: str) -> tuple[Run, Yes]:
    """The approval `name` names: `a1` if only one waits, `7f3a-a1`, or the whole id.

    Raises `UnknownRun`, and `UsageError` when it is ambiguous or malformed.
    """
    return await _find(reader, name, "approval", lambda run: run.approvals, lambda yes: yes.state == "pending")


async def find_doubt(reader: Reader, name: str) -> tuple[Run, Doubt]:
    """The call in doubt `name` names, as `find_yes`."""
    return await _find(reader, name, "doubt", lambda run: run.doubts, lambda doubt: doubt.settled is None)


async def _find(
    reader: Reader, name: str, what: str, of: Callable[[Run], dict[str, Q]], is_open: Callable[[Q], bool]
) -> tuple[Run, Q]:
    prefix, _, tail = name.rpartition("-")
    if not tail:
        raise UsageError(f"{name!r} names no {what}; they look like {what[0]}1 or 7f3a-{what[0]}1")
    states = [await reader.state(run) for run in reader.runs if run.startswith(prefix)]
    found = [(run, q) for run in states if (q := of(run).get(f"{run.id}-{tail}")) is not None]
    waiting = [pair for pair in found if is_open(pair[1])] or found
    if len(waiting) == 1:
        return waiting[0]
    if waiting:
        names = listed(handle(reader, q.id) for _, q in waiting)
        raise UsageError(f"{what} {name!r} is ambiguous: {names}")
    every = listed(handle(reader, q.id) for run in states for q in of(run).values() if is_open(q)) or "none"
    raise UnknownRun(f"{reader.path}: no {what} {name!r}; open: {every}")


def handle(reader: Reader, name: str) -> str:
    """The id of an approval or doubt with its run's id shortened."""
    run, _, tail = name.rpartition("-")
    return clean(f"{shorten(run, reader.runs)}-{tail}")


def check_answerable(yes: Yes, by: str, now: float) -> None:
    """Raise `UsageError` when `yes` was answered, has expired, or is not for `by` to answer. The owner checks again."""
    if yes.state != "pending":
        said = "refused" if yes.state == "refused" else "approved"
        raise UsageError(f"approval {yes.id} was {said} already by {yes.by or 'somebody'}")
    if yes.asked.expires <= now:
        raise UsageError(f"approval {yes.id} has expired; that counts as no")
    if yes.asked.who and by not in yes.asked.who:
        raise UsageError(f"approval {yes.id}: {by!r} may not answer; {', '.join(yes.asked.who)} may")


def described(yes: Yes, now: float) -> list[str]:
    """What a person must see before a yes: the call in full, its digest, the policy, who may answer, until when."""
    asked = yes.asked
    hours, minutes = divmod(int(max(0.0, asked.expires - now)) // 60, 60)
    who = ", ".join(asked.who) or "anybody"
    return [
        f"{'Asked':>12}  {call_text(asked.name, asked.arguments, 0)}",
        f"{'':>12}  digest {asked.digest} · policy {clean(asked.policy) or 'none'} · by {clean(who)} ·"
        f" expires in {hours}:{minutes:02} h",
    ]


def changed(run: Run, yes: Yes, changes: Mapping[str, object], policies: Mapping[str, Policy] | None) -> list[str]:
    """What a person must see who changes the arguments: what is changed; if the agents are known, the whole call that
    the yes will be bound to.

    Raises `UsageError` when it does not fit then; else the owner finds out.
    """
    edit = as_json(changes, "--edit")
    if policies is None:
        return [f"{'Changed':>12}  {call_text(yes.asked.name, edit, 0)}, the rest as asked"]
    made = edited(policies.get(run.subs[yes.sub].agent), yes, edit) or yes.asked.arguments
    digest = call_digest(yes.asked.name, made)
    return [f"{'Changed':>12}  {call_text(yes.asked.name, made, 0)}", f"{'':>12}  digest {digest}"]


async def post(reader: Reader, kind: str, word: Word, at: float) -> int:
    """Put an answer into the inbox, durably and without secrets of known forms; its number there."""
    word = msgspec.structs.replace(word, by=scrubbed(word.by), reason=scrubbed(word.reason))
    return await reader.store.post(kind, msgspec.json.encode(word), at)


async def taken(
    reader: Reader, run: str, done: Callable[[Run], str], *, within: float = TAKEN_WITHIN, poll: float = POLL
) -> str:
    """What `done` says as soon as it says something about the run; "" after `within` seconds."""

    async def look() -> str:
        return done(await reader.state(run))

    return await _until(reader, look, within, poll)


async def released(reader: Reader, agent: str, *, within: float = TAKEN_WITHIN, poll: float = POLL) -> bool:
    """Whether the owner lifts the quarantine of an agent within so many seconds."""

    async def look() -> str:
        return "" if agent in await quarantined(reader) else "released"

    return bool(await _until(reader, look, within, poll))


async def quarantined(reader: Reader) -> dict[str, Quarantined]:
    """The agents that take no requests, by name."""
    return held_in(await reader.records(QUARANTINE))


async def _until(reader: Reader, look: Callable[[], Awaitable[str]], within: float, poll: float) -> str:
    deadline = time.monotonic() + within
    version = -1
    while True:
        before, version = version, await reader.store.data_version()
        if before != version and (said := await look()):
            return said
        if time.monotonic() >= deadline:
            return ""
        await anyio.sleep(poll)
