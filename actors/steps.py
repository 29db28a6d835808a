"""Stepping handlers by hand, without a task: a stepper runs one coroutine after another in whatever context it is in.

Sending a job into a running generator and delegating from there costs half of sending into a fresh coroutine: a
coroutine that is delegated to ends without raising `StopIteration`.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Generator
from typing import Any, Final, Literal

from understudy.actors.delivery import DELIVERY, Envelope, Handler
from understudy.actors.tasks import hold, note_driver

KEPT: Final = 64
RUNNING: Final = 0
ENDED: Final = 1
FAILED: Final = 2

Job = tuple[Envelope, Handler, Any, Any]
"""The record of the delivery, the handler, and the actor and message it is called with."""


class Stepper:
    """Runs the `async def` handler of one job at a time.

    `send(job)` begins one. When it returns and `state` is `ENDED`, the handler has returned `value`; `FAILED`: it
    raised `error`; `RUNNING`: it awaits what `send` returned, and the stepper belongs to it until it ends.
    """

    __slots__ = ("coroutine", "error", "send", "state", "value")

    def __init__(self) -> None:
        self.state: Literal[0, 1, 2] = ENDED
        self.error: BaseException | None = None
        self.value: Any = None
        self.coroutine: Any = _steps(self)  # a generator that may delegate to coroutines: there is no type for both
        self.send: Callable[[Any], Any] = self.coroutine.send
        self.send(None)

    def fail(self, error: BaseException) -> None:
        """Note what a generator cannot survive: it has come out of `send`, and the stepper can take no other job."""
        self.state, self.error = FAILED, error

    def outcome(self) -> tuple[Any, BaseException | None]:
        """The value or error of the handler that ended, forgotten here."""
        value, error, self.value, self.error = self.value, self.error, None, None
        return value, error

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self.coroutine.gi_frame is not None


@types.coroutine
def _steps(stepper: Stepper) -> Generator[Any, Any, None]:
    while True:
        envelope, handler, actor, message = yield
        stepper.state = RUNNING
        DELIVERY.set(envelope)
        try:
            stepper.value = yield from handler(actor, message)
        except GeneratorExit:
            raise
        except BaseException as error:  # every end of a handler is an outcome
            stepper.error = error
            stepper.state = FAILED
        else:
            stepper.state = ENDED
        envelope = handler = actor = message = None  # it may be long until the next job


note_driver(_steps)


def given(coroutine: object, _message: object) -> object:
    """The handler of a job whose coroutine was made before."""
    return coroutine


@types.coroutine
def adopt(
    stepper: Stepper, waiting: Any, context: contextvars.Context, *, early: bool = False
) -> Generator[Any, Any, tuple[Any, BaseException | None]]:
    """Go on with a handler that has suspended, as the task that awaits this, to its end: (value, error).

    Whatever is thrown into the task belongs to the handler; `early` says that the task was cancelled before it came
    here. Raises only when this is closed itself.
    """
    coroutine = stepper.coroutine
    hold(waiting)
    if early and waiting is not None and waiting.cancel():
        early = False
    while True:
        step: Callable[[Any], Any] = stepper.send
        argument: Any = None
        try:
            if early:
                raise asyncio.CancelledError
            argument = yield waiting
        except GeneratorExit:  # the loop was closed under us: nobody is left to tell
            coroutine.close()
            raise
        except BaseException as error:
            step, argument, early = coroutine.throw, error, False
        try:
            waiting = context.run(step, argument)
        except BaseException as error:  # only what a generator cannot survive
            stepper.fail(error)
        if stepper.state is not RUNNING:
            return stepper.outcome()
