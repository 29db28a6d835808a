"""Running a tool for a call: a place, its tries with back-off, the time each has, and what comes of it.

All of it happens within the one reservation of the call, and the further tries of all calls of a step are counted
together: a tool that fails under load is not called ever more often because several calls of it fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec

from understudy.actors.agents.tools import RESULT_LIMIT, Call, Tool, described
from understudy.actors.errors import Fenced
from understudy.actors.journal import events as ev
from understudy.actors.redaction import MARK

if TYPE_CHECKING:
    from understudy.actors.agents.acting import Acts

UNKNOWN: Final = frozenset({"timeout", "lost"})
"""Kinds of a tool's error after which the call may have happened: no reply in time, or the connection broke."""


async def try_tool(acts: Acts, act: Tool[..., Any], event: ev.ToolAsked) -> ev.ToolAnswered | ev.ToolFailed | None:
    """The outcome after the allowed tries; None when nobody can say whether it happened."""
    began = acts.now()
    arguments, error = act.bind(event.arguments)
    if arguments is None:
        return ev.ToolFailed(event.step, event.index, "arguments", error)
    if MARK in event.arguments:
        arguments, error = await acts.live(arguments)
        if error:
            return ev.ToolFailed(event.step, event.index, "secret", error)
    kind, text = "error", ""
    for number in range(act.retries + 1):
        call = acts.call_of(event) if act.takes_call else None
        if call is not None and (error := await call.turn_back(acts.live)):
            return ev.ToolFailed(event.step, event.index, "secret", error)
        kind, text = await _in_place(acts, act, call, arguments)
        if not kind:
            return ev.ToolAnswered(event.step, event.index, text, round(acts.now() - began, 6))
        if kind in UNKNOWN and act.effect in ("irreversible", "verifiable"):
            return None
        if number < act.retries:
            if acts.seconds_left() <= 0 or not acts.may_retry(event.step):
                break
            await acts.back_off(number + 1)
    return ev.ToolFailed(event.step, event.index, kind, text, round(acts.now() - began, 6))


async def _in_place(acts: Acts, act: Tool[..., Any], call: Call | None, arguments: dict[str, Any]) -> tuple[str, str]:
    """One try, in one of the places that the tool has; waiting for one takes nothing of its timeout."""
    slots = acts.slots(act)
    if slots is None:
        return await _once(acts, act, call, arguments)
    me = object()
    with anyio.move_on_after(max(0.0, min(acts.seconds_left(), acts.state_left()))) as waiting:
        await slots.acquire_on_behalf_of(me)
    if waiting.cancelled_caught:
        return "busy", f"all {act.concurrency} places of {act.name!r} were taken for as long as this may last"
    try:
        return await _once(acts, act, call, arguments)
    finally:
        slots.release_on_behalf_of(me)


async def _once(acts: Acts, act: Tool[..., Any], call: Call | None, arguments: dict[str, Any]) -> tuple[str, str]:
    """One try: ("", JSON) or (kind, error text)."""
    before = () if call is None else (call,)
    seconds = max(0.001, min(act.timeout, acts.seconds_left()))
    value: Any = None
    scope = anyio.move_on_after(seconds)
    hard = scope.deadline
    if call is not None and act.idle is not None:
        _watch(scope, call, act.idle)
    try:
        with scope:
            if act.is_async:
                value = await act.fn(*before, **arguments)
            else:
                function = functools.partial(act.fn, *before, **arguments)
                value = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
        if scope.cancelled_caught:
            late = f"no result within {seconds:g} s" if scope.deadline >= hard else f"no progress for {act.idle:g} s"
            said = f"; its last word was {call.said!r}" if call is not None and call.said else ""
            return "timeout", f"{late}{said}"
        text = acts.sealed(value, msgspec.json.encode(value))
    except BaseException as error:
        if is_ours(error):
            raise
        return _kind_of(error), described(error)
    if len(text) > RESULT_LIMIT:
        return "too_large", f"the result has {len(text)} bytes, the limit is {RESULT_LIMIT}"
    return "", text.decode()


def _watch(scope: anyio.CancelScope, call: Call, idle: float) -> None:
    """End the scope when the call says nothing for `idle` seconds, as long as its hard deadline is further off."""
    hard, loop = scope.deadline, asyncio.get_running_loop()

    def put_off() -> None:
        scope.deadline = min(hard, anyio.current_time() + idle)

    def heard() -> None:
        with contextlib.suppress(RuntimeError):  # a thread that was given up speaks when the loop is closed
            loop.call_soon_threadsafe(put_off)

    put_off()
    call.on_progress(heard)


def _kind_of(error: BaseException) -> str:
    """What the journal calls a tool's error."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return "lost"
    return type(error).__name__


def is_ours(error: BaseException) -> bool:
    """Whether what came out of a tool is not its own failure: a stop, an interrupt, a kill."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | Fenced)
