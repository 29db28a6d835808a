"""A failure as a page that can be read: what was broken, the world, and a timeline with one column for each actor.

`Falsified` and what `main` raised are short, because Hypothesis shows them again and again; the page is beside them.
The pytest plugin shows it as a section of the report, with the name of the test and Hypothesis's `@reproduce_failure`
line where there is one (`print_blob=True`); so it does when the test's own assertion failed after the run. Without the
plugin the page is a note of the exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from understudy.actors.errors import UsageError
from understudy.actors.testing import options
from understudy.actors.testing.outside import untraced
from understudy.actors.testing.trace import Event, Trace

if TYPE_CHECKING:
    from understudy.actors.testing.world import World

T = TypeVar("T")

SHOWN: Final = 24
"""Events that a timeline shows, the last ones."""
COLUMNS: Final = 6
"""Actors that a timeline shows, those with the last events."""
WIDTH: Final = 120
"""Characters of a line of the timeline."""
_INDENT: Final = "    "
_CLOCK: Final = 13
_CLOSING: Final = frozenset({"notice", "closing", "closed", "settling", "settled"})
_OF_AN_END: Final = frozenset({"stopping", "halting", "ending", "ended", "released"})
_DULL: Final = frozenset({"known", "answered"})
"""Kinds of events that oracles need, and that a timeline says already with others."""
_OUTSIDE: Final = "(outside)"
"""The column of what is no actor's."""

last: tuple[World, Trace] | None = None
"""The last world that was run, and its trace, for the pytest plugin."""


class Falsified(AssertionError):
    """An invariant does not hold in a world. `violations` are sentences, each with the invariant's number.

    `page` is the whole story.
    """

    def __init__(self, message: str, violations: tuple[str, ...], page: str = "") -> None:
        super().__init__(message)
        self.violations = violations
        self.page = page


def sentences(oracle: Callable[[T], Iterable[str]], what: T) -> list[str]:
    """What an oracle finds wrong. Raises `UsageError` for one that returns a text, or nothing at all."""
    found: object = oracle(what)
    if isinstance(found, str) or not isinstance(found, Iterable):
        name = getattr(oracle, "__qualname__", repr(oracle))
        raise UsageError(f"check: {name} returned {found!r}; it yields a sentence for each thing that is wrong")
    return list(found)


def verify(world: World, trace: Trace, check: Iterable[Callable[[Trace], Iterable[str]]]) -> None:
    """Raise `Falsified` if an oracle finds something, or if `always` or `eventually` did."""
    with untraced():
        said = [sentence for oracle in check for sentence in sentences(oracle, trace)]
        found: tuple[str, ...] = tuple(trace.broken + said)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        error = Falsified(f"{next(iter(found))}{more}", found, page(world, trace, found))
        explain(error, world, trace, error.page)
        raise error


def explain(error: BaseException, world: World, trace: Trace, whole: str = "") -> None:
    """Add to an exception what world it is of: one line where the plugin shows the page, else the page."""
    if options.sections:
        if trace.replayable:
            error.add_note(f"world: pytest --sim-replay={world.token}")
    else:
        error.add_note(whole or page(world, trace))


def page(
    world: World, trace: Trace, violations: Iterable[str] = (), *, test: str = "", blob: str = "", failure: str = ""
) -> str:
    """The page. `test`: what to give to pytest; `blob`: Hypothesis's own line; `failure`: that of the test itself."""
    lines = [f"Falsified {each}" for each in violations or trace.broken]
    if failure:
        lines.append(f"Failed {_first_line(failure)}")
    elif trace.error is not None:
        kind = type(trace.error).__name__
        lines.append(f"Raised {kind}: {_first_line(str(trace.error))}")
    lines.append(f"  at t={trace.seconds:g} s, trace {trace.fingerprint()}, {len(trace):,} events")
    lines.append(f"  world: {came_true(world, trace)}")
    lines += [f"{_INDENT}{each!r}" for each in (*world.schedule, *world.faults)]
    lines += [f"{_INDENT}{each}" for each in _rest(world)]
    lines += timeline(trace)
    if trace.replayable:
        lines.append(f"  pin it:   @example({world!r})")
        lines.append(f"  replay:   pytest {test + ' ' if test else ''}--sim-replay={world.token}")
    else:
        lines.append("  replay:   run the steps of the machine again, as Hypothesis wrote them")
    if blob:
        lines.append(f"  or:       {blob}   (this version of Hypothesis only)")
    return "\n".join(lines)


def came_true(world: World, trace: Trace) -> str:
    """One line: what came true of what the world holds."""
    fired = sum(trace.came_true(fault) for fault in world.faults)
    holds, faults = len(world.schedule), len(world.faults)
    if not holds and not faults:
        return "no deviation from first come, first served, and no fault"
    held = len(set(trace.held))
    return f"{held} of {_plural(holds, 'deviation')} and {fired} of {_plural(faults, 'fault')} drawn came true"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _rest(world: World) -> list[str]:
    """What else the world says that is not the default."""
    lines = [f"model of {agent!r} says {ints}" for agent, ints in world.says]
    if world.people:
        lines.append(f"people answer {world.people}")
    if not world.inline:
        lines.append("asks take the queue (inline=False)")
    if world.seed:
        lines.append(f"jitter of seed {world.seed}")
    return lines


def _first_line(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first} ..." if rest else first


# -- the timeline ------------------------------------------------------------------------------------------------


def timeline(trace: Trace, shown: int = SHOWN, columns: int = COLUMNS, width: int = WIDTH) -> list[str]:
    """The last events, one row each, of the actors with the last ones, one column each; plain text."""
    if not trace.events:
        return ["  timeline: nothing happened"]
    shut = _shutdown(trace.events)
    events = [event for event in trace.events[: len(trace) - shut] if event.kind not in _DULL] or trace.events
    paths = _columns(events, columns)
    rows = [event for event in events if event.path in paths][-shown:]
    paths = [path for path in paths if any(event.path == path for event in rows)]
    known = _plural(len({event.path for event in trace.events if event.path}), "actor")
    each = (width - len(_INDENT) - _CLOCK) // len(paths)
    title = f"  timeline: last {len(rows)} of {len(trace):,} events, {sum(map(bool, paths))} of {known}"
    if shut:
        title += f"; then {shut} of an orderly shutdown"
    head = "".join(_cut(path or _OUTSIDE, each - 1, keep_end=True).ljust(each) for path in paths)
    lines = [title, f"{_INDENT}{'seconds'.ljust(_CLOCK)}{head}".rstrip()]
    for event in rows:
        start, text = len(_INDENT) + _CLOCK + each * paths.index(event.path), _cell(event)
        if event.kind == "fault":  # what matters most may begin further left
            start = max(len(_INDENT) + _CLOCK, min(start, width - len(text)))
        clock = f"{event.at / 1e9:.6f}"
        lines.append(f"{_INDENT}{clock}".ljust(start) + _cut(text, width - start))
    return lines


def _shutdown(events: Sequence[Event]) -> int:
    """How many events at the end are of an orderly shutdown: nearly every run has one, and it explains nothing."""
    end = len(events)
    while end and _ends(events[end - 1]):
        end -= 1
    return len(events) - end


def _ends(event: Event) -> bool:
    if event.kind in _OF_AN_END:
        return event.what == "shutdown"
    return event.kind in _CLOSING


def _columns(events: Sequence[Event], columns: int) -> list[str]:
    """The paths with the last events, in the order in which they first came."""
    chosen: set[str] = set()
    for event in reversed(events):
        if len(chosen) == columns:
            break
        chosen.add(event.path)
    return list(dict.fromkeys(event.path for event in events if event.path in chosen))


def _cell(event: Event) -> str:
    """One event in the column of its actor."""
    which = f" m{event.message}" if event.message else ""
    what = f" {event.what}" if event.what else ""
    match event.kind:
        case "sent":
            ask = f" ({event.detail})" if event.detail else ""
            return f"<-{which}{what}{ask} from {event.peer or 'outside'}"
        case "starting" | "started" | "fenced":
            return f"{event.kind} #{event.number}"
        case "fault" | "lost":
            told = event.detail if event.detail.startswith(event.what) else f"{event.what} {event.detail}"
            return f"!! {event.kind}{which} {told}"
        case "spawned":
            parent = event.peer or event.what
            return f"spawned by {parent}" if parent else "spawned"
        case "end":
            return f"end{which}{what}: {event.detail}"
        case "letter" | "refused":
            return f"{event.kind}{which}{what}: {event.detail}"
        case "noted":
            return f"{event.what} {event.detail}".rstrip()
        case "ended" | "released":
            same = event.detail.startswith(event.what)
            return f"{event.kind} #{event.number} {event.detail if same else f'{event.what} {event.detail}'}".rstrip()
        case _:
            return f"{event.kind}{which}{what} {event.detail}".rstrip()


def _cut(text: str, width: int, *, keep_end: bool = False) -> str:
    text = text.replace("\n", " ")
    if len(text) <= width:
        return text
    return f"..{text[2 - width :]}" if keep_end else f"{text[: width - 2]}.."
