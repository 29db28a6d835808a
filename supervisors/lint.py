"""What looks wrong in a tree of supervisors although it may run: the usual mistakes, each with its cure.

    for finding in check(desk):
        print(f"{finding.place}: {finding.text}; {finding.cure}")

Pure: descriptions in, findings out. A system says them once when it starts, as warnings of the logger
`understudy.actors` with `code` and `place`. Conservative: what is not known for certain is not reported. What only
running can show (a permanent child that ends normally) is reported then, once a child, as `permanent-ends`.

| code | found in |
|---|---|
| `permanent-ends` | a permanent child whose class calls `self.context.stop()` |
| `temporary-pool` | a pool of temporary members: it can only shrink |
| `finite-shutdown` | a supervisor's actor as a plain child: its shutdown time is not that of its children |
| `never-trips` | an intensity that one failing child can never exceed, since the back-off is slower |
| `always-trips` | an intensity of 0 over children that are restarted |
| `layer-unused` | a child's own intensity that the supervisor's comes before |
| `swapped` | restarts and seconds that look exchanged |
| `group-of-one` | a group strategy over a single child |
| `transient-supervisor` | a nested transient supervisor: not restarted after it gave up |
| `permanent-auto-shutdown` | a nested permanent supervisor that shuts itself down, and is restarted each time |
| `nothing-significant` | `auto_shutdown` without a significant child |
| `escalates-to-nobody` | a ladder that escalates, right below the root: the whole tree ends |
| `forgotten-in-group` | a temporary child in a group strategy: a group restart stops and forgets it |
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import Final

from msgspec import Struct

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.guards import Escalate
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.keeping import Keeper
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor

PERIODS: Final = frozenset({30, 60, 120, 300, 600, 900, 1_800, 3_600})
"""Numbers of seconds that people write, and numbers of restarts that they do not."""
SHORT: Final = 10.0
"""A window in seconds below which such a number of restarts is suspicious."""


class Finding(Struct, frozen=True):
    """One likely mistake: its code, the path it is at, what is wrong, and what to do."""

    code: str
    place: str
    text: str
    cure: str


class Rates(Struct, frozen=True):
    """What an intensity means: restarts per second that may go on for ever, restarts that may come at once, and how
    long a child that always fails at once lasts with the back-off (seconds; None: for ever).
    """

    sustained: float
    burst: int
    gives_up_after: float | None

    def __str__(self) -> str:
        end = "never" if self.gives_up_after is None else f"after {self.gives_up_after:.3g} s"
        return (
            f"{self.burst} restarts at once, {self.sustained:.3g} per second for ever; a child that always fails at"
            f" once makes it give up {end}"
        )


def rates(intensity: Intensity, backoff: Backoff) -> Rates:
    """What `intensity` means with `backoff`. The shortest delays that the jitter allows are taken.

    A child that fails at once is counted at 0, d_0, d_0 + d_1, …: delays only grow, so if the first `restarts` of them
    do not fit into the window, no others do.
    """
    spent = 0.0
    for failures in range(intensity.restarts):
        delay = backoff.delay(failures, 0.0)
        left = intensity.restarts - failures
        if delay == 0.0 or delay == backoff.delay(failures + 1, 0.0):  # it has reached the cap, or does not grow
            spent += delay * left
            break
        spent += delay
        if spent > intensity.within:
            break
    return Rates(intensity.sustained, intensity.burst, spent if spent <= intensity.within else None)


def check(root: Supervisor) -> tuple[Finding, ...]:
    """Every finding of a tree, top down."""
    return tuple(_supervisor(root, root.name, top=True))


def _supervisor(supervisor: Supervisor, path: str, *, top: bool = False) -> Iterator[Finding]:
    yield from _intensity(supervisor.intensity, supervisor.backoff, path, restarts=_restarts(supervisor))
    yield from _shape(supervisor, path)
    if top:
        yield from _escalates(supervisor, path)
    else:
        yield from _nested(supervisor, path)
    for child in supervisor.children:
        below = f"{path}/{child.name}"
        if isinstance(child, Supervisor):
            yield from _supervisor(child, below)
        elif isinstance(child, DynamicSupervisor):
            yield from _dynamic(child, below)
        else:
            yield from _child(supervisor, child, below)


def _restarts(supervisor: Supervisor) -> bool:
    return any(child.restart != "temporary" for child in supervisor.children)


def _intensity(intensity: Intensity, backoff: Backoff, path: str, *, restarts: bool) -> Iterator[Finding]:
    if intensity.restarts == 0:
        if restarts:
            text = "an intensity of 0 ends the supervisor at the first restart that is needed"
            yield Finding("always-trips", path, text, "allow a restart, or make the children temporary")
        return
    meant = rates(intensity, backoff)
    if meant.gives_up_after is None:
        text = f"{intensity} with this back-off is never exceeded by one child, however often it fails"
        yield Finding("never-trips", path, text, f"make `within` longer; now: {meant}")
    if intensity.restarts in PERIODS and intensity.within < SHORT:
        text = f"{intensity} looks like {intensity.within:g} restarts in {intensity.restarts} s the wrong way round"
        yield Finding("swapped", path, text, f"Intensity(restarts, within=seconds); now: {meant}")


def _shape(supervisor: Supervisor, path: str) -> Iterator[Finding]:
    members = sum(child.count if isinstance(child, ChildSpec) else 1 for child in supervisor.children)
    if supervisor.strategy != "one_for_one" and members == 1:
        text = f"{supervisor.strategy} over a single child is one_for_one"
        yield Finding("group-of-one", path, text, "say one_for_one, or put the children that belong together here")
    if supervisor.auto_shutdown != "never" and not any(child.significant for child in supervisor.children):
        text = f"auto_shutdown={supervisor.auto_shutdown!r} without a significant child never happens"
        yield Finding("nothing-significant", path, text, "mark a transient or temporary child significant=True")


def _escalates(root: Supervisor, path: str) -> Iterator[Finding]:
    for spec in root.children:
        agent = spec.child if isinstance(spec, ChildSpec) else None
        if not isinstance(agent, Agent):
            continue
        loops = agent.loops if agent.loops is not None else root.loops
        if isinstance(loops, Loops) and any(isinstance(response, Escalate) for response in loops.ladder):
            text = "its ladder escalates, and there is no supervisor above its own: the whole tree ends"
            yield Finding("escalates-to-nobody", f"{path}/{agent.name}", text, "put a Supervisor between, or Stop()")


def _nested(supervisor: Supervisor, path: str) -> Iterator[Finding]:
    if supervisor.restart == "transient":
        text = "a transient supervisor that gave up has ended with `shutdown`, and is not restarted"
        yield Finding("transient-supervisor", path, text, "make it permanent, unless that is meant")
    if supervisor.restart == "permanent" and supervisor.auto_shutdown != "never":
        text = "it shuts itself down when its work is done, and is restarted each time because it is permanent"
        yield Finding("permanent-auto-shutdown", path, text, "make it transient or temporary")


def _dynamic(dynamic: DynamicSupervisor, path: str) -> Iterator[Finding]:
    how = dynamic.template
    yield from _intensity(dynamic.intensity, dynamic.backoff, path, restarts=how.restart != "temporary")
    yield from _layer(dynamic.intensity, how.intensity, path)
    if dynamic.restart == "transient":
        text = "a transient supervisor that gave up has ended with `shutdown`, and is not restarted"
        yield Finding("transient-supervisor", path, text, "make it permanent, unless that is meant")
    if how.restart == "permanent" and dynamic.factory is not None and _ends_by_itself(dynamic.factory):
        yield _permanent_ends(path)


def _child(supervisor: Supervisor, spec: ChildSpec[object], path: str) -> Iterator[Finding]:
    if spec.restart == "permanent" and _ends_by_itself(spec.child):
        yield _permanent_ends(path)
    if spec.restart == "temporary" and spec.count > 1:
        text = f"a pool of {spec.count} temporary members shrinks with every failure and never grows"
        yield Finding("temporary-pool", path, text, "make the members permanent or transient")
    if spec.restart == "temporary" and supervisor.strategy != "one_for_one" and len(supervisor.children) > 1:
        text = f"a group restart ({supervisor.strategy}) stops a temporary child and forgets it"
        yield Finding("forgotten-in-group", path, text, "make it transient, or move it to another supervisor")
    if isinstance(spec.child, type) and issubclass(spec.child, Keeper):
        text = f"a supervisor's actor as a plain child with shutdown={spec.shutdown:g}"
        yield Finding("finite-shutdown", path, text, "put a Supervisor there: it ends when its children have")
    yield from _layer(supervisor.intensity, spec.intensity, path)


def _layer(above: Intensity, own: Intensity | None, path: str) -> Iterator[Finding]:
    if own is not None and own.restarts > above.restarts and own.within <= above.within:
        text = f"its own intensity, {own}, is never exceeded before the supervisor's, {above}"
        yield Finding("layer-unused", path, text, "allow the child fewer restarts, or the supervisor more")


def _permanent_ends(path: str) -> Finding:
    text = "it ends itself with `self.context.stop()`, and is restarted each time because it is permanent"
    return Finding("permanent-ends", path, text, 'restart="transient"')


def _ends_by_itself(child: object) -> bool:
    """Whether a class calls `self.context.stop()`, with the normal exit, in a handler or in `on_start`."""
    if not (isinstance(child, type) and issubclass(child, Actor)):
        return False
    return any(_calls_stop(function) for function in (*child.handlers.values(), child.on_start))


def _calls_stop(function: object) -> bool:
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and _code_calls_stop(code)


@functools.lru_cache(1_000)  # trees are made anew for every simulated world, of the same classes
def _code_calls_stop(code: CodeType) -> bool:
    names = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "PRECALL", "PUSH_NULL")]
    for context, stop, call in zip(names, names[1:], names[2:], strict=False):
        if context.argval == "context" and stop.argval == "stop" and call.opname == "CALL" and call.arg == 0:
            return True
    return False
