"""The live view: durable facts as lines while they happen, and below them, on a terminal with rich, a moving panel.

The panel caps its own rows, so that it never grows taller than the screen: troubled actors first, the rest counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TextIO

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.state import Run, Sub
from understudy.supervisors.operator.text import call_text, clean, count, duration, fit, many, name_of, say
from understudy.supervisors.operator.words import Describe, Fact, Narrator

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

ROWS: Final = 8
"""Rows of the panel at most, the heading not counted; fewer on a low screen."""
_SIGNS: Final = {"waiting": "?", "restarting": "!", "running": "●", "complete": "✓", "failed": "×", "stopped": "×"}
_ORDER: Final = ("failed", "stopped", "restarting", "waiting", "running")
_STYLES: Final = {
    "Looped": "yellow", "Nudged": "yellow", "Restarted": "yellow", "Waiting": "cyan", "Approved": "green",
    "Finished": "green", "Failed": "red", "Stopped": "red", "Crashed": "red", "Gave up": "red", "Denied": "red",
    "Refused": "red", "Doubted": "magenta", "Erred": "yellow",
}  # fmt: skip


class LiveView:
    """A journal listener that tells a person what happens. Enter it, then give it to `listen`.

    `plain`: lines only, also on a terminal. The panel needs a terminal, rich and not `plain`; NO_COLOR takes
    colours away. `short`, `describe` and `opening` as for `Narrator`. `clock` counts monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        plain: bool = False,
        short: Callable[[str], str] = lambda run: run[:4],
        describe: Describe | None = None,
        opening: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._narrator = Narrator(short=short, describe=describe, opening=opening)
        self._panel = None if plain else _make_panel(stream, clock)
        self._asking = False

    def learn(self, records: Sequence[Record]) -> None:
        """Take in the past of a run that goes on now, without telling it."""
        self._narrator.learn(list(records))

    def __call__(self, record: Record) -> None:
        """Tell `record`."""
        for fact in self._narrator.facts(record):
            self._tell(fact)
        run = self._narrator.runs.get(record.run)
        if self._panel is not None and run is not None:
            self._panel.show(run, record)

    def _tell(self, fact: Fact) -> None:
        if self._panel is not None and self._panel.active:
            self._panel.tell(fact)
        else:
            with suppress(OSError, ValueError):  # a closed pipe must not end what is watched
                if self._asking:  # the cursor stands behind a question
                    say(self._stream, "")
                say(self._stream, fact.line())
            self._asking = False

    def __enter__(self) -> LiveView:
        if self._panel is not None:
            self._panel.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._panel is not None:
            self._panel.stop()

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Take the panel away while somebody is asked something on the terminal."""
        active = self._panel is not None and self._panel.active
        if self._panel is not None and active:
            self._panel.stop()
        self._asking = True
        try:
            yield
        finally:
            self._asking = False
            if self._panel is not None and active:
                self._panel.start()


def _make_panel(stream: TextIO, clock: Callable[[], float]) -> _Panel | None:
    with suppress(ValueError, OSError):
        if not stream.isatty() or os.environ.get("TERM") == "dumb":
            return None
        try:
            from rich.console import Console
        except ImportError:
            return None
        return _Panel(Console(file=stream, highlight=False, markup=False, emoji=False), stream, clock)
    return None


class _Panel:
    """The moving part. What it draws is replaced as a whole, because rich draws from a thread of its own."""

    def __init__(self, console: Console, stream: TextIO, clock: Callable[[], float]) -> None:
        self._console = console
        self._stream = stream
        self._clock = clock
        self._lines: tuple[str, ...] = ()
        self._head = ""
        self._alive: tuple[float, float | None] = (0.0, None)
        self._live: Live | None = None
        self._down: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether it is on the screen."""
        return self._live is not None

    def start(self) -> None:
        """Show it."""
        from rich.live import Live

        if self._live is None:
            # transient: when it stops it is taken away, and what stays on the screen are the lines.
            self._live = Live(
                get_renderable=self._draw, console=self._console, transient=True, refresh_per_second=4,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()

    def stop(self) -> None:
        """Take it away."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def tell(self, fact: Fact) -> None:
        """A line above the panel."""
        from rich.text import Text

        text = Text(fit(fact.line(self._console.width), self._stream), overflow="fold", no_wrap=False)
        text.stylize(_STYLES.get(fact.verb, "bold"), 0, 12)
        self._console.print(text)

    def show(self, run: Run, record: Record) -> None:
        """Take the state of a run over into what is drawn."""
        match record.event:
            case ev.ChildExited(child=child):
                self._down.add(child)
            case ev.ChildStarted(child=child):
                self._down.discard(child)
            case _:
                pass
        self._lines = tuple(rows(run, frozenset(self._down), self._room()))
        self._head = heading(run)
        self._alive = (run.spend.alive, None if run.resting else self._clock())

    def _room(self) -> int:
        return max(1, min(ROWS, self._console.height - 4))

    def _draw(self) -> Text:
        from rich.text import Text

        alive, since = self._alive
        now = alive if since is None else alive + max(0.0, self._clock() - since)
        width = max(20, self._console.width - 1)
        lines = ["─" * width, f"{self._head}   alive {duration(now)}", *self._lines] if self._head else []
        cut = [clean(line, width) for line in lines]
        return Text(fit("\n".join(cut), self._stream), no_wrap=True, overflow="crop")


def heading(run: Run) -> str:
    """What the run has spent."""
    spend = run.spend
    return f" {name_of(run.asked_agent)}  steps {spend.steps}   tokens {count(spend.tokens)}   restarts {run.restarts}"


def rows(run: Run, down: frozenset[str], room: int) -> list[str]:
    """At most `room` rows, one for each (sub-)run: troubled first, then running; what does not fit is counted."""
    states = [(sub, _status(sub, down)) for sub in run.subs.values()]
    states.sort(key=lambda each: (_ORDER.index(each[1]) if each[1] in _ORDER else len(_ORDER), -each[0].seq))
    shown = states[:room]
    lines = [_row(sub, status) for sub, status in shown]
    if rest := _tally([status for _, status in states[room:]]):
        lines[-1] += f"   (and {rest})"
    return lines


def _tally(statuses: Sequence[str]) -> str:
    kinds: Mapping[str, int] = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    return ", ".join(f"{number} more {status}" for status, number in kinds.items())


def _status(sub: Sub, down: frozenset[str]) -> str:
    if sub.finished is not None:
        return sub.finished.status
    if sub.parked is not None:
        return "waiting"
    return "restarting" if sub.path in down else "running"


def _row(sub: Sub, status: str) -> str:
    call = next((c for c in sub.calls() if c.asked is not None and not c.done), None)
    doing = call_text(call.call.name, call.arguments, 40) if call is not None and sub.finished is None else ""
    if sub.parked is not None:
        doing = f"{sub.parked.on} {', '.join(each.rpartition('-')[2] for each in sub.parked.ids)}"
    name = name_of(sub.path or sub.agent)
    return f" {_SIGNS.get(status, '·')} {name:<14} {status:<10} {many(sub.spend.steps, 'step'):>9}   {doing}".rstrip()


@contextmanager
def listening(
    view: LiveView, listen: Callable[[Callable[[Record], None]], Callable[[], None]]
) -> Generator[None, None, None]:
    """Show `view`, and have it told everything, as long as the context is open."""
    remove = listen(view)
    try:
        with view:
            yield
    finally:
        remove()
