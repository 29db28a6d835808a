"""A world: everything of a simulated run that is not the program, as one value.

    trace = World(faults=(Crash("desk/worker", at=2),), schedule=(Hold("desk/worker", at=1, steps=3),)).run(main)

The empty world is first come, first served, and nothing goes wrong. Its repr is the code that makes it, its `token` a
line for `pytest --sim-replay`, bound to the version of this kit and to no version of Hypothesis.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import zlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.actors.testing import properties
from understudy.actors.testing.faults import Fault, known
from understudy.actors.testing.outside import inside, no_escape, untraced
from understudy.actors.testing.schedule import Demote, Deviation, Hold, Plan
from understudy.actors.testing.simloop import IDLE_STEPS, SimLoop, Watch, run_in
from understudy.actors.testing.simulation import ActorFaults, SimSimulation
from understudy.actors.testing.trace import TRACE_LIMIT, Trace

T = TypeVar("T")

Main = Callable[[], Coroutine[Any, Any, object]]
"""What a world runs: enters its own kernels or systems, and returns when it is done."""
VERSION: Final = "w1"
"""Of tokens."""
MOMENT: Final = 100
"""Turns of the loop, at most, that what ended in the same moment as main has to come to its end."""


class World(Struct, frozen=True, omit_defaults=True):
    """See the module.

    `faults` and `schedule` are in no order that matters, but for demotions. `says`: what the model of each agent says,
    as small numbers (see `sim_model`); `people`: how questions to people are answered, one number each; both are read
    by `understudy.testing.play`. `inline`: whether asks of idle actors are served at once, as in production. `seed` is
    of jitter and entropy. Raises `UsageError` for a value of another type.
    """

    faults: tuple[Fault, ...] = ()
    schedule: tuple[Deviation, ...] = ()
    says: tuple[tuple[str, tuple[int, ...]], ...] = ()
    people: tuple[int, ...] = ()
    inline: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check_all("faults", self.faults, _is_fault, "faults, as (Crash('desk', at=1),)")
        _check_all("schedule", self.schedule, _is_deviation, "deviations, as (Demote('desk', at=1),)")
        _check_all("says", self.says, _is_saying, "pairs of an agent and its choices, as (('desk', (1, 0)),)")
        _check_all("people", self.people, _is_choice, "numbers from 0, as (1,)")
        for name, value, kind in (("inline", self.inline, bool), ("seed", self.seed, int)):
            if type(value) is not kind:
                raise UsageError(f"World: {name} is {value!r}; it is of type {kind.__name__}")

    def __repr__(self) -> str:
        fields = [
            f"{name}={value!r}" for name, default in _DEFAULTS.items() if (value := getattr(self, name)) != default
        ]
        return f"World({', '.join(fields)})"

    # -- tokens --------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """The world as one line: `w1:...`."""
        packed = zlib.compress(msgspec.json.encode(self), 9)
        return f"{VERSION}:{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"

    @classmethod
    def from_token(cls, token: str) -> World:
        """The world of a token. Raises `UsageError` for one that is cut, of another version, or of no world."""
        raw = unpacked(token)
        try:
            return _world_of(raw)
        except ValueError as error:
            raise UsageError(f"replay token {token[:20]!r}...: {error}") from None

    # -- runs ----------------------------------------------------------------------------------------------

    def run(
        self,
        main: Main,
        *,
        check: Iterable[Callable[[Trace], Iterable[str]]] | None = None,
        idle_steps: int = IDLE_STEPS,
        limit: int = TRACE_LIMIT,
        settle: float = 0.0,
        watch: Watch | None = None,
    ) -> Trace:
        """Run `main()` in this world, in virtual time, and hold the trace against invariants.

        Kernels and systems that `main` enters are driven by this world. `check`: oracles, `invariants.default()` by
        default, `()` for none. `idle_steps`, `limit`, `watch`: see `SimLoop` and `Trace`. `settle`: virtual seconds
        that a kernel is left alone for when `main` leaves it, before it is closed; then messages that nobody begins,
        and a tree that does not come to rest, are found (invariants 6 and 24).

        Raises what `main` raises (with this world as a note), `Falsified` for a broken invariant, `Deadlock`,
        `Livelock`, `Escape`, `TraceFull`.
        """
        from understudy.actors.testing import report

        trace = Trace(limit)
        try:
            with inside(self.seed), untraced(), no_escape():
                self._run(main, trace, idle_steps, settle, watch)
        except BaseException as error:
            trace.error = error
            report.last = (self, trace)
            if isinstance(error, Exception):
                report.explain(error, self, trace)
            raise
        report.last = (self, trace)
        if check is None:
            from understudy.actors.testing.invariants import default

            check = default()
        report.verify(self, trace, check)
        return trace

    def check_determinism(self, main: Main, *, times: int = 2, hash_seeds: Sequence[int] = ()) -> Trace:
        """Run `main()` `times` times, with garbage allocated in between, and compare all that can be seen of it.

        `hash_seeds`: run it in a process for each as well, with that `PYTHONHASHSEED`; then `main` has to be a function
        of a module, which is loaded there from its file. Returns the trace of the first run; what main raises is
        compared, not raised. Raises `NotDeterministic`, which names the first event, outcome and callback that differ,
        and `UsageError` for fewer than two runs.
        """
        from understudy.actors.testing import determinism

        return determinism.check(self, main, times=times, hash_seeds=hash_seeds)

    def _run(self, main: Main, trace: Trace, idle_steps: int, settle: float, watch: Watch | None) -> None:
        loop = SimLoop(idle_steps=idle_steps)
        loop.watch = watch
        simulation = self.simulate(loop, trace)
        simulation.settle = settle
        collecting = gc.isenabled()
        gc.disable()
        try:
            with properties.running(self, trace) as run:

                def before_end() -> None:
                    run.end()
                    look(loop, simulation, trace)

                trace.result = run_in(loop, main, before_end=before_end)
        finally:
            trace.failures = tuple(_failure(context) for context in loop.failures)
            if collecting:
                gc.enable()

    def simulate(self, loop: SimLoop, trace: Trace) -> SimSimulation:
        """Let this world drive the kernels of a loop."""
        faults, plan = ActorFaults(self.faults), Plan(self.schedule, inline=self.inline)
        simulation = SimSimulation(loop, plan, faults, trace, seed=self.seed)
        trace.held = plan.used
        loop.simulation = simulation
        loop.set_exception_handler(lambda _, context: loop.failures.append(context))
        return simulation


def look(loop: SimLoop, simulation: SimSimulation, trace: Trace) -> None:
    """What is left when main has returned."""
    for _ in range(MOMENT):  # what ended in the same moment as main
        loop.run_until_complete(asyncio.sleep(0))
        if not loop._ready:
            break
    closed = [kernel for kernel in simulation.kernels if not kernel._open]
    trace.left_timers = sum(len(kernel.timers._heap) for kernel in closed)
    trace.closed = len(closed) == len(simulation.kernels)
    if trace.closed:
        trace.left_tasks = tuple(loop.left())
    trace.queued = simulation.left()
    trace.unanswered = dict(simulation.unanswered)
    trace.held_up = loop.held_up
    trace.ended_at = loop.nanoseconds


def _failure(context: Mapping[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message', 'failure')}: {error!r}" if error is not None else str(context.get("message"))


_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(World)}


def _check_all(name: str, given: object, fits: Callable[[object], bool], what: str) -> None:
    """Raise `UsageError` unless a field of a world is a tuple of what it holds."""
    if not isinstance(given, tuple):
        raise UsageError(f"World: {name} is {given!r}; it is a tuple of {what}")
    for each in given:
        if not fits(each):
            raise UsageError(f"World: {name} has {each!r}; it is a tuple of {what}")


def _is_fault(each: object) -> bool:
    return isinstance(each, Fault)


def _is_deviation(each: object) -> bool:
    return isinstance(each, Hold | Demote)


def _is_choice(each: object) -> bool:
    return type(each) is int and each >= 0


def _is_saying(each: object) -> bool:
    match each:
        case (str(), tuple(choices)) if isinstance(each, tuple):
            return all(map(_is_choice, choices))
    return False


def unpacked(token: object) -> object:
    """What a token holds. Raises `UsageError` for one that is cut, or of another version."""
    if not isinstance(token, str):
        raise UsageError(f"replay token {token!r}: it is a text that begins with {VERSION}:")
    version, _, text = token.strip().partition(":")
    where = f"replay token {token[:20]!r}{'...' * (len(token) > 20)}"
    if version != VERSION:
        raise UsageError(f"{where}: this kit reads {VERSION}:...")
    try:
        return msgspec.json.decode(zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    except (ValueError, RecursionError, zlib.error) as error:
        raise UsageError(f"{where}: not whole ({error})") from None


def _world_of(raw: object) -> World:
    """Faults are whatever classes are known: those of models, tools and disks live in modules of their own.

    Raises `ValueError` for what is no world.
    """
    if not isinstance(raw, dict) or not isinstance(planned := raw.pop("faults", []), list):
        raise ValueError("it holds no world")
    if unknown := sorted(raw.keys() - _DEFAULTS):
        raise ValueError(f"a world has no {unknown[0]!r}")
    kinds = known()
    faults: list[Fault] = []
    for each in planned:
        which = each.get("$") if isinstance(each, dict) else each
        kind = kinds.get(which) if isinstance(which, str) else None
        if kind is None:
            raise ValueError(f"no fault {which!r} here; known: {', '.join(sorted(kinds))}")
        faults.append(msgspec.convert(each, kind))
    world = msgspec.convert(raw, World)
    return msgspec.structs.replace(world, faults=tuple(faults))
