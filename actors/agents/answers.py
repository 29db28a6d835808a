"""What people say to a run: yes, no, it happened, it did not.

A yes is bound to the digest of tool and exact arguments, names who gave it, expires, is single use, and is checked
again when it is used. Every answer here is committed before it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from understudy.actors.agents.commands import call_digest
from understudy.actors.agents.outcomes import approval_of
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.redacting import sealed_arguments
from understudy.actors.agents.results import Approval, OpenDoubt
from understudy.actors.agents.runs import Runs
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import JournalError, UnderstudyError, UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Doubt, Run, Sub, Yes
from understudy.actors.telemetry import log

A = TypeVar("A", Yes, Doubt)

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Word(Struct, frozen=True):
    """An answer of another process, JSON in the inbox: the id of an approval or doubt (or an agent), who says it, and
    what. `arguments`: those of a call that a yes changes, as JSON.
    """

    id: str
    by: str
    did: bool = False
    reason: str = ""
    digest: str = ""
    arguments: str = ""


async def hear(runs: Runs, kind: str, body: bytes) -> None:
    """Take a word of another process: "approve", "refuse", "settle" or "release"; what cannot be taken is logged.

    Raises `JournalError` when it could not be committed: then it has not been heard.
    """
    try:
        word = msgspec.json.decode(body, type=Word)
        if kind == "approve":
            await approve(runs, word.id, word.by, word.digest, word.arguments)
        elif kind == "refuse":
            await refuse(runs, word.id, word.by, word.reason)
        elif kind == "settle":
            await settle(runs, word.id, word.did, word.by)
        elif kind == "release":
            await release(runs, word.id, word.by)
        else:
            log.error("inbox: a word of unknown kind %r was passed over", kind)
    except JournalError:
        raise
    except (msgspec.MsgspecError, UnderstudyError) as error:
        log.error("inbox: %s was not taken: %s", kind, error)


def approvals(runs: Runs) -> list[Approval]:
    """Every yes that is asked for and not answered, oldest first."""
    return [
        approval_of(run.id, yes.asked)
        for run in runs.live()
        for yes in run.approvals.values()
        if yes.state == "pending"
    ]


def doubts(runs: Runs) -> list[OpenDoubt]:
    """Every doubt that is not settled, oldest first."""
    return [
        OpenDoubt(d.id, run.id, d.event.name, d.event.arguments, d.event.effect, d.event.key)
        for run in runs.known()
        for d in run.doubts.values()
        if d.settled is None
    ]


def _matches(full: str, given: str) -> bool:
    return full == given or full.endswith(f"-{given}")


def _find_yes(runs: Runs, name: str) -> tuple[Run, Yes]:
    found = [(run, yes) for run in runs.live() for yes in run.approvals.values() if _matches(yes.id, name)]
    pending = [pair for pair in found if pair[1].state == "pending"] or found
    return _one(pending, "approval", name, runs)


def _find_doubt(runs: Runs, name: str) -> tuple[Run, Doubt]:
    found = [(run, doubt) for run in runs.known() for doubt in run.doubts.values() if _matches(doubt.id, name)]
    pending = [pair for pair in found if pair[1].settled is None] or found
    return _one(pending, "doubt", name, runs)


def _one(found: list[tuple[Run, A]], what: str, name: str, runs: Runs) -> tuple[Run, A]:
    if not found:
        raise UnknownRun(f"no {what} {name!r} in {runs.journal.store.path}")
    if len(found) > 1:
        raise UsageError(f"{what} {name!r} is ambiguous: {', '.join(each.id for _, each in found)}")
    return found[0]


async def approve(runs: Runs, name: str, by: str, digest: str = "", arguments: str = "") -> str:
    """Say yes; the run goes on. `digest`, when given, must be that of the call as it was shown. `arguments`: a JSON
    object of those that are changed, "" for none; the yes is then bound to the call as it is with them.

    Returns the run's id. Raises `UnknownRun`, or `UsageError` for a name that may not answer, a yes that expired or
    was answered already, arguments that are not those shown, or changed ones that do not fit the tool.
    """
    run, yes = _find_yes(runs, name)
    _check_open(yes)
    _check_person(yes, by)
    if digest and digest != yes.asked.digest:
        raise UsageError(f"approval {yes.id}: the call is not the one that was shown (digest {yes.asked.digest})")
    if yes.asked.expires <= runs.kernel.clock.wall():
        expire(runs, run, yes)
        await _wake(runs, run, yes.sub, f"{yes.id} expired")
        raise UsageError(f"approval {yes.id} has expired; that counts as no")
    policy = runs.policies.get(run.subs[yes.sub].agent)
    changed = edited(policy, yes, arguments) if arguments else ""
    if changed and policy is not None:
        changed = sealed_arguments(runs.redactor, runs.scope(run.id), policy.acts[yes.asked.name], changed)
    version = policy.version_of(yes.asked.policy) if policy is not None else ""
    bound = call_digest(yes.asked.name, changed) if changed else yes.asked.digest
    event = ev.ApprovalGiven(yes.id, by, bound, yes.asked.policy, changed, version)
    runs.append(run.id, event, sub=yes.sub, cause=yes.seq)
    await _wake(runs, run, yes.sub, f"{yes.id} approved by {by}")
    return run.id


def as_json(value: object, what: str) -> str:
    """What a person changes, as JSON. Raises `UsageError` for what has none."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{what}: {error}") from error


def edited(policy: Policy | None, yes: Yes, changes: str) -> str:
    """The arguments of a call with `changes`, a JSON object, in the place of those of the same names; "" when that
    changes nothing.

    Raises `UsageError` for what is no object, or does not fit the tool's schema.
    """
    asked = yes.asked
    where = f"approval {yes.id}: the changed arguments of {asked.name}"
    try:
        wanted = _object.decode(changes.encode("utf-8", "replace"))
        text = msgspec.json.encode({**_object.decode(asked.arguments or "{}"), **wanted}).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} are no JSON object: {error}") from error
    act = policy.acts.get(asked.name) if policy is not None else None
    if not isinstance(act, Tool):
        raise UsageError(f"{where} cannot be checked: agent or tool are not part of this system any more")
    if error_text := act.bind(text)[1]:
        raise UsageError(f"{where} do not fit: {error_text}")
    return text if call_digest(asked.name, text) != asked.digest else ""


async def refuse(runs: Runs, name: str, by: str, reason: str = "") -> str:
    """Say no; the agent is told. Returns the run's id. Raises as `approve`."""
    run, yes = _find_yes(runs, name)
    _check_open(yes)
    _check_person(yes, by)
    runs.append(run.id, ev.ApprovalRefused(yes.id, by, reason), sub=yes.sub, cause=yes.seq)
    await _wake(runs, run, yes.sub, f"{yes.id} refused by {by}")
    return run.id


async def settle(runs: Runs, name: str, did: bool, by: str) -> str:
    """Say whether a call in doubt happened. Returns the run's id. Raises `UnknownRun`, `UsageError`."""
    run, doubt = _find_doubt(runs, name)
    if doubt.settled is not None:
        raise UsageError(
            f"doubt {doubt.id} was settled already: it {'happened' if doubt.settled else 'did not happen'}"
        )
    _check_name(doubt.id, by)
    runs.append(run.id, ev.DoubtSettled(doubt.id, bool(did), by), sub=doubt.sub)
    await _wake(runs, run, doubt.sub, f"{doubt.id} settled by {by}")
    return run.id


async def release(runs: Runs, agent: str, by: str) -> None:
    """Lift the quarantine of an agent; what waits for it goes on. Raises `UsageError`."""
    _check_name(f"agent {agent!r}", by)
    runs.quarantine.release(agent, by)
    await runs.journal.barrier()
    for run in runs.live():
        for sub in list(run.subs.values()):
            if sub.agent == agent and sub.finished is None and sub.parked is not None and sub.parked.on == "quarantine":
                await _wake(runs, run, sub.id, f"{agent} released by {by}")


def expire(runs: Runs, run: Run, yes: Yes) -> None:
    """A yes that nobody gave in time is a no."""
    runs.append(run.id, ev.ApprovalRefused(yes.id, "clock", "nobody answered in time"), sub=yes.sub, cause=yes.seq)


async def expire_all(runs: Runs) -> None:
    """Expire what is due; called now and then by who owns the runs."""
    now = runs.kernel.clock.wall()
    for run, yes in list(_due(runs, now)):
        expire(runs, run, yes)
        await _wake(runs, run, yes.sub, f"{yes.id} expired")


def _due(runs: Runs, now: float) -> Iterator[tuple[Run, Yes]]:
    for run in runs.live():
        for yes in run.approvals.values():
            if yes.state == "pending" and yes.asked.expires <= now:
                yield run, yes


async def time_out_all(runs: Runs) -> None:
    """Tell parked (sub-)runs whose state has timed out; called now and then by who owns the runs.

    Those that wait for a call that was begun (a doubt, a delegation) wait on: it ends first.
    """
    now = runs.kernel.clock.wall()
    for run in runs.live():
        for sub in list(run.subs.values()):
            if _may_time_out(sub) and sub.until <= now:
                runs.append(run.id, ev.StateTimedOut(sub.state, sub.until), sub=sub.id, cause=sub.seq)
                await _wake(runs, run, sub.id, f"state {sub.state!r} timed out")


def rest(runs: Runs, active: float, most: float) -> float | None:
    """Seconds until `expire_all`, `time_out_all` and `Runs.end_late` may have something to do; None for never.

    `active` while a (sub-)run is at work or due to be; else until the first question expires or state times out, at
    most `most`: both go by the wall clock. Holds until something is journalled.
    """
    first: float | None = None
    for run in runs.live():
        if any(sub.finished is None and sub.parked is None for sub in run.subs.values()):
            return active
        times = [yes.asked.expires for yes in run.approvals.values() if yes.state == "pending"]
        times += [sub.until for sub in run.subs.values() if _may_time_out(sub)]
        first = min([*times, *([] if first is None else [first])], default=None)
    return None if first is None else max(active, min(first - runs.kernel.clock.wall(), most))


def _may_time_out(sub: Sub) -> bool:
    waits = sub.parked is not None and sub.parked.on in ("approval", "timer") and sub.finished is None
    return waits and bool(sub.until) and not sub.expired


async def _wake(runs: Runs, run: Run, sub: int, why: str) -> None:
    state = run.subs[sub]
    parked = state.parked is not None
    if parked:
        runs.append(run.id, ev.Unparked(why), sub=sub)

    def go_on(name: str, number: int) -> None:
        if parked:
            runs.dispatch(name, number)
            _wake_parents(runs, run, state.parent)

    try:
        await runs.journal.barrier()
    except asyncio.CancelledError:  # whoever answered is gone; the answer stays
        runs.after_commit(go_on, run.id, sub)
        raise
    go_on(run.id, sub)


def _wake_parents(runs: Runs, run: Run, parent: int) -> None:
    """A parked sub-run goes on: so does the one that waits for it, to wait again for its end."""
    state = run.subs.get(parent)
    if state is not None and state.parked is not None and state.parked.on == "sub":
        runs.append(run.id, ev.Unparked("its sub-run goes on"), sub=parent)
        runs.dispatch(run.id, parent)
        _wake_parents(runs, run, state.parent)


def _check_open(yes: Yes) -> None:
    if yes.state != "pending":
        said = {"granted": "approved", "used": "approved and used", "refused": "refused"}[yes.state]
        raise UsageError(f"approval {yes.id} was {said} already by {yes.by or 'somebody'}")


def _check_person(yes: Yes, by: str) -> None:
    _check_name(yes.id, by)
    if yes.asked.who and by not in yes.asked.who:
        raise UsageError(f"approval {yes.id}: {by!r} may not answer; {', '.join(yes.asked.who)} may")


def _check_name(what: str, by: str) -> None:
    if not by.strip():
        raise UsageError(f"{what}: say who answers (by=...)")
