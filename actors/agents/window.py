"""The context window of an agent: how large a request may be, what always stays in it, and what makes it smaller.

    window = ContextWindow(32_000, pins=["Never write."], compact=[Trim(), Summarise(keep=8)])
    Agent("auditor", model=..., window=window)

A request is the pins (instructions, constraints, the request worked on), the tools and the schema, and the items of the
view (see `journal.view`). When it would pass `at` of the window, the rules are asked in their order, each once, until
it is below; what they do is journalled, so a replay sees the same window, and a run that goes on asks no summary again.

A rule is data and pure. It never sees a call that is waited for (that is no item yet), nor a pin, and what it drops are
whole items: a call goes with all results of its reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from understudy.actors.agents.models import ChatMessage, Model
from understudy.actors.errors import SpecError
from understudy.actors.journal.view import Cut, Item, Spans, View, length, shortened, size_of, spans_of

LEFT_OUT: Final = "[{count} earlier exchanges were left out.]"
FAILURES: Final = "[{count} failed exchanges were left out: {what}]"
NAMED: Final = 8
"""Failures that a gap names, each with 120 characters at the most."""
HARDER: Final = (512, 192, 64)
"""`over`, `head` and `tail` of a cut when nothing else helps."""
PROMPT: Final = (
    "You keep the memory of an agent at work. Below are older parts of its conversation, about to be left out. Write"
    " what it needs to go on: facts, results with their exact names and numbers, decisions, what failed and why, what"
    " is still to be done. Write nothing else."
)


def _at_least(where: str, name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError(f"{where}: {name} {value!r}: a whole number, at least {least}")


@dataclass(frozen=True, slots=True)
class Pressed:
    """A window that is too large, as a rule sees it. Sizes are as in `journal.view`: the most tokens there can be.

    `free` are the items that may be dropped or shortened, oldest first; the newest item of all is `newest` (its number)
    and may be shortened only. `size` is that of the whole request, `goal` what it should come down to, `most` what it
    must come down to. `view.tokens(size)` and `view.room(tokens)` turn sizes into estimated tokens and back.
    """

    view: View
    free: Sequence[Item]
    newest: int
    size: int
    goal: int
    most: int
    limit: int


class Smaller(Struct, frozen=True):
    """What a rule does: drop items, with `text` in their place ("" for nothing), and shorten results."""

    dropped: Spans = ()
    text: str = ""
    cuts: tuple[Cut, ...] = ()


class Summary(Struct, frozen=True):
    """What a rule does: have a model write what takes the place of these items."""

    covers: Spans


class Rule(Protocol):
    """One way to make a window smaller."""

    def plan(self, window: Pressed) -> Smaller | Summary | None:
        """What to do, None for nothing. Pure: called by `decide`, and again by replay."""
        ...


class DropFailed(Struct, frozen=True):
    """Drop exchanges in which every call failed, and answers that were rejected, but for the newest `keep` (2) items.

    One line stays that names the failures, so that they are not tried again. Raises `SpecError` for `keep` below 1.
    """

    keep: int = 2

    def __post_init__(self) -> None:
        _at_least("DropFailed", "keep", self.keep, 1)

    def plan(self, window: Pressed) -> Smaller | None:
        """See `Rule`."""
        gone = [item for item in _old(window, self.keep) if item.failed]
        if not gone:
            return None
        named = list(dict.fromkeys(line for item in gone for line in _failures(item)))
        what = "; ".join(named[:NAMED]) + ("; …" if len(named) > NAMED else "")
        return Smaller(spans_of(item.number for item in gone), FAILURES.format(count=len(gone), what=what))


class Trim(Struct, frozen=True):
    """Shorten results of more than `over` (4,000) characters to their first `head` (1,000) and last `tail` (500).

    Oldest first, and only as many as it takes; the newest exchange last. What is left out stays in the journal: the
    text says so with a handle, and from then on the agent is offered the tool `read_spilled`, which gives it back in
    pieces of 2,000 characters. When that is not enough, results of more than 512 characters are shortened to 192 and
    64.

    Raises `SpecError` unless `head` + `tail` is less than `over`.
    """

    over: int = 4_000
    head: int = 1_000
    tail: int = 500

    def __post_init__(self) -> None:
        _at_least("Trim", "over", self.over, 1)
        _at_least("Trim", "head", self.head, 0)
        _at_least("Trim", "tail", self.tail, 0)
        if self.head + self.tail >= self.over:
            raise SpecError(f"Trim: head {self.head} + tail {self.tail} is not less than over {self.over}")

    def plan(self, window: Pressed) -> Smaller | None:
        """See `Rule`."""
        cuts: dict[tuple[int, int], Cut] = {}
        size = window.size
        for (over, head, tail), stop in (
            ((self.over, self.head, self.tail), window.goal),
            (HARDER, window.most),
        ):
            for item in window.free:
                for at, message in enumerate(item.messages):
                    if size <= (stop if item.number != window.newest else window.most):
                        break
                    cut = Cut(item.number, at, head, tail)
                    whole = message.role == "tool" and at not in item.cut and (item.number, at) not in cuts
                    if whole and len(message.content) > over and (saved := saved_by(item, cut)) > 0:
                        cuts[item.number, at] = cut
                        size -= saved
        return Smaller(cuts=tuple(cuts.values())) if cuts else None


class Slide(Struct, frozen=True):
    """Drop the oldest items until the window is down to its goal; the newest `keep` (4) stay if they can.

    They do not when the window would still be above `at` of its limit: then all but the newest may go. One line says
    how many exchanges were left out. A model's summary goes last. Raises `SpecError` for `keep` below 1.
    """

    keep: int = 4

    def __post_init__(self) -> None:
        _at_least("Slide", "keep", self.keep, 1)

    def plan(self, window: Pressed) -> Smaller | None:
        """See `Rule`."""
        size = window.size + size_of(ChatMessage("user", LEFT_OUT.format(count=10**6)))
        old = _old(window, self.keep)
        kept = {item.number for item in old}
        late = [item for item in _old(window, 1) if item.number not in kept]
        summaries = [item for item in old if item.kind == "summary"]
        gone: list[Item] = []
        for items, stop in (
            ([item for item in old if item.kind != "summary"], window.goal),
            (late, window.most),
            (summaries, window.most),
        ):
            for item in items:
                if size <= stop:
                    break
                gone.append(item)
                size -= item.size
        if not gone or size >= window.size:
            return None
        count = window.view.left_out + sum(item.kind in ("exchange", "task") for item in gone)
        return Smaller(spans_of(item.number for item in gone), LEFT_OUT.format(count=count))


WINDOWS: Final = 5
"""Full windows that the summaries of one (sub-)run may take: less than one, and a large window had none."""


class Summarise(Struct, frozen=True):
    """Have a model write a summary of everything but the newest `keep` (4) items; it takes their place.

    Where the newest `keep` alone are too large, of everything but the newest.

    `model`: who writes it, default the agent's own. `max_tokens` (512) caps a summary. `input` (default: the limit of
    the window) caps what is sent for one, in tokens: of a longer past, the oldest part that fits is summarised first,
    so that it works also when the past does not fit anywhere. `budget` (default: five times the limit of the window)
    is the most that all summaries of one (sub-)run may take, in tokens; they are charged to the run's pools as well.
    `prompt` replaces the default instructions.

    A summary is asked for `tries` (2) times when the model fails, and the reply, journalled, is never asked for again.
    When there is no summary (no budget left, failures, an empty or longer text) the next rule makes room.

    Raises `SpecError` for a number below 1.
    """

    keep: int = 4
    model: Model | None = None
    max_tokens: int = 512
    input: int | None = None
    budget: int | None = None
    tries: int = 2
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        for name in ("keep", "max_tokens", "tries", "input", "budget"):
            if (value := getattr(self, name)) is not None:
                _at_least("Summarise", name, value, 1)

    def plan(self, window: Pressed) -> Summary | None:
        """See `Rule`."""
        if window.view.summary_failures >= self.tries:
            return None
        return self._cover(window, self.keep) or self._cover(window, 1)

    def _cover(self, window: Pressed, keep: int) -> Summary | None:
        """The oldest items that a request for a summary has room for; of a single one that is larger, a part."""
        view, most = window.view, window.view.room(self.input or window.limit)
        covers: list[Item] = []
        size = 0
        for item in _old(window, keep):
            if size + item.size > most and any(each.kind != "summary" for each in covers):
                break
            covers.append(item)
            size += item.size
        cost = view.tokens(min(size, most)) + self.max_tokens
        fresh = size > self.max_tokens and any(item.kind != "summary" for item in covers)
        budget = self.budget if self.budget is not None else WINDOWS * window.limit
        if not fresh or view.summary_tokens + cost > budget:
            return None
        return Summary(spans_of(item.number for item in covers))


DEFAULT: Final[tuple[Rule, ...]] = (DropFailed(), Trim(), Slide())
"""The rules of a window that names none."""


class ContextWindow(Struct, frozen=True):
    """How much a model is shown. What is left out of the arguments:

    - `tokens`: the most tokens of one request's input. Default: what the model takes (`context` of the model) less the
      agent's `max_tokens`; where that is not known, no limit, and nothing is ever left out.
    - `compact`: the rules, asked in this order. Default: `DropFailed()`, `Trim()`, `Slide()`.
    - `at` (0.8): the part of `tokens` at which they are asked; `to` (0.5): the part that they come down to.
    - `pins`: texts that always stand behind the instructions, unchanged. Default: none.
    - `first` (0): so many of the first exchanges always stay, too; in a session, those of its first runs with what they
      answer.

    An agent without a `window` has `ContextWindow()`. What cannot be made to fit ends the run as `failed` before a byte
    is sent, naming the sizes. Sizes are estimates (see `journal.view`): from what the provider reported last, with a
    margin for what came since where rules are asked, and without one where a run would end.

    Raises `SpecError` for numbers out of range and for what is no rule.
    """

    tokens: int | None = None
    compact: Sequence[Rule] | None = None
    at: float = 0.8
    to: float = 0.5
    pins: Sequence[str] = ()
    first: int = 0

    def __post_init__(self) -> None:
        if self.tokens is not None:
            _at_least("ContextWindow", "tokens", self.tokens, 1)
        if not 0 < self.to < self.at <= 1:
            raise SpecError(f"ContextWindow: to {self.to!r} and at {self.at!r}: parts of the window, 0 < to < at <= 1")
        _at_least("ContextWindow", "first", self.first, 0)
        rules = DEFAULT if self.compact is None else tuple(self.compact)
        for rule in rules:
            if isinstance(rule, type) or not callable(getattr(rule, "plan", None)):
                raise SpecError(f"ContextWindow: compact holds {rule!r}, which is no rule, such as Trim() or Slide()")
        if sum(isinstance(rule, Summarise) for rule in rules) > 1:
            raise SpecError("ContextWindow: compact holds more than one Summarise")
        if isinstance(self.pins, str) or not all(pin.strip() for pin in self.pins):
            raise SpecError(f"ContextWindow: pins {self.pins!r}: a list of texts that are not empty")
        msgspec.structs.force_setattr(self, "compact", rules)
        msgspec.structs.force_setattr(self, "pins", tuple(self.pins))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, defaults filled in."""
        return tuple(self.compact or ())

    @property
    def summariser(self) -> Summarise | None:
        """The rule that has a model write summaries, if there is one."""
        return next((rule for rule in self.rules if isinstance(rule, Summarise)), None)

    def limit(self, model: Any, max_tokens: int) -> int | None:
        """Tokens of input that a request of `model` may have, None for any number. Raises `SpecError` for none."""
        if self.tokens is not None:
            return self.tokens
        context = context_of(model)
        if context is not None and context <= max_tokens:
            raise SpecError(f"max_tokens {max_tokens} leaves nothing of the {context} tokens that {model.name} takes")
        return context - max_tokens if context is not None else None


# Whatever a user passes as a model.
def context_of(model: Any) -> int | None:
    """Tokens that a model takes, input and answer together, as its `context` says; None when it does not."""
    context = getattr(model, "context", None)
    return context if isinstance(context, int) and context > 0 else None


def own_model(window: ContextWindow) -> ContextWindow:
    """The same window, its summaries written by the agent's own model."""
    rules = [msgspec.structs.replace(r, model=None) if isinstance(r, Summarise) else r for r in window.rules]
    return msgspec.structs.replace(window, compact=rules)


def _old(window: Pressed, keep: int) -> list[Item]:
    """The free items that are not among the newest `keep` of the view."""
    spared = {item.number for item in window.view.items[-keep:]}
    return [item for item in window.free if item.number not in spared]


def _failures(item: Item) -> list[str]:
    """Each failed call of an exchange with its error, in one short line."""
    first = item.messages[0] if item.messages else None
    if first is None or not first.calls:
        return ["an answer that was not valid"]
    results = {message.call_id: message.content for message in item.messages if message.role == "tool"}
    return [f"{call.name}({call.arguments}) -> {results.get(call.id, '')}"[:120] for call in first.calls]


def saved_by(item: Item, cut: Cut) -> int:
    """By how much a cut makes its item smaller; below 0 when what it says of itself is longer."""
    text = item.messages[cut.message].content
    handle = f"{item.origin}.{cut.message - 1}"
    return length(text) - length(shortened(text, cut.head, cut.tail, handle))
