"""What a model is shown of a (sub-)run: the entries of its context window, rendered once and kept as running sums.

An *item* is a whole exchange (a reply with the result of every call it asks for), a note, the request itself, or a
summary or gap (what stands for items that were dropped): what is dropped or kept is an item, so a call and its results
stay together. The fold adds an item when its exchange is closed; a call that is waited for is therefore not in the view
yet, and nothing can drop it. Sizes, the flat list of messages and the chain of digests are kept as items come: a
further one costs the same however many there are.

Sizes are the most tokens that a provider can count (UTF-8 bytes, and `MESSAGE_OVERHEAD` an entry; see
`models.input_cap`). What it will count is estimated from what it reported last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.models import MESSAGE_OVERHEAD, ChatMessage

Kind = Literal["task", "exchange", "note", "summary", "gap"]
"""A summary was made by a model, a gap says what was left out without one."""
Spans = tuple[tuple[int, int], ...]
"""Numbers of items, as pairs of the first and the last of a stretch."""

LEAST: Final = 8
"""Bytes that one token covers at most: what a provider reports below that is not believed."""
UNKNOWN: Final = 2
"""Bytes a token while nothing was reported, and for what came since: English has about four, so it errs upwards."""
LIKELY: Final = 4
"""Bytes a token in English, about: what cannot fit even so is refused without asking the provider."""
SPILLED: Final = '… [{left} characters left out; read_spilled(id="{handle}", offset={offset}) gives them] …'


SUMMARY: Final = "Summary of what came before:\n{text}"


class Item(Struct, frozen=True, gc=False):
    """One entry. `number` counts from 0 and is never given twice; `step` is the model step it belongs to.

    `size` is in tokens at the most, `mark` a digest of the messages. `origin` is `run/sub:step` of an exchange, by
    which a result left out can be read back; `cut` are the indices of messages that were shortened. `failed` says that
    every call failed or that the answer was rejected. A `pinned` item stays as it is for as long as the run goes on.
    """

    number: int
    kind: Kind
    step: int
    messages: tuple[ChatMessage, ...]
    size: int
    mark: str
    origin: str = ""
    failed: bool = False
    pinned: bool = False
    cut: tuple[int, ...] = ()


class Cut(Struct, frozen=True):
    """Of message `message` of item `number`, the first `head` and the last `tail` characters stay."""

    number: int
    message: int
    head: int
    tail: int


class View(Struct, gc=False):
    """Everything the model is shown beside the pins. Only `fold` changes it.

    `items` are in the order in which they are shown, `messages` the same flat, `marks` the chain of their digests,
    `size` their sum. `counted` tokens were reported for a request of the size `counted_size` (0: nothing yet).
    `base` is the first number of this run's own items, lower ones were taken over from the session's run before.
    `left_out` counts requests and exchanges that a gap stands for. `since` is the size of what was added since the
    session's window was last written down whole. `summary_tokens` is what summaries took so far, `summary_failures` how
    often none came since room was made.
    """

    items: list[Item] = field(default_factory=list[Item])
    messages: list[ChatMessage] = field(default_factory=list[ChatMessage])
    marks: list[str] = field(default_factory=list[str])
    size: int = 0
    next: int = 0
    base: int = 0
    counted: int = 0
    counted_size: int = 0
    spilled: bool = False
    left_out: int = 0
    summary_tokens: int = 0
    summary_failures: int = 0
    since: int = 0

    @property
    def mark(self) -> str:
        """A digest of everything shown, in its order; "" for nothing."""
        return self.marks[-1] if self.marks else ""

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        next: int,
        *,
        counted: int = 0,
        counted_size: int = 0,
        spilled: bool = False,
        left_out: int = 0,
        since: int = 0,
    ) -> View:
        """A run's view that begins with the items of another run, which its `base` tells from its own."""
        view = cls(next=next, base=next, counted=counted, counted_size=counted_size)
        view.spilled, view.left_out, view.since = spilled, left_out, since
        for item in items:
            view._push(item)
        return view

    # -- as items come -------------------------------------------------------------------------------------

    def add(
        self,
        kind: Kind,
        step: int,
        messages: Sequence[ChatMessage],
        *,
        origin: str = "",
        failed: bool = False,
        pinned: bool = False,
    ) -> None:
        """Show one more item."""
        item = made(self.next, kind, step, tuple(messages), origin=origin, failed=failed, pinned=pinned)
        self.next += 1
        self.since += item.size
        self._push(item)

    def _push(self, item: Item) -> None:
        self.items.append(item)
        self.messages.extend(item.messages)
        self.marks.append(_chained(self.mark, item.mark))
        self.size += item.size

    def show(self, step: int, messages: Sequence[ChatMessage], *, origin: str, failed: bool) -> None:
        """Show an exchange that was closed, or that has changed since."""
        for at in range(len(self.items) - 1, -1, -1):
            item = self.items[at]
            if item.number < self.base or item.step < step:
                break
            if item.origin == origin:
                again = made(item.number, "exchange", step, tuple(messages), origin=origin, failed=failed)
                self._rebuild(at, [again, *self.items[at + 1 :]])
                return
        self.add("exchange", step, messages, origin=origin, failed=failed)

    # -- made smaller --------------------------------------------------------------------------------------

    def replace(self, spans: Spans, text: str, kind: Kind) -> None:
        """Drop items; in their place, where the first of them was, comes `text` ("" for nothing)."""
        gone = within(spans)
        first = next((at for at, item in enumerate(self.items) if gone(item.number)), None)
        if first is None:
            return
        if kind == "gap":
            self.left_out += sum(item.kind in ("exchange", "task") for item in self.items if gone(item.number))
        rest = [item for item in self.items[first:] if not gone(item.number)]
        if text:
            step = max(item.step for item in self.items[first:] if gone(item.number))
            rest.insert(0, made(self.next, kind, step, (ChatMessage("user", text),)))
            self.next += 1
            self.since += rest[0].size
        self._rebuild(first, rest)

    def shorten(self, cuts: Sequence[Cut]) -> None:
        """Cut the results named; each keeps its place and its number."""
        wanted: dict[int, list[Cut]] = {}
        for cut in cuts:
            wanted.setdefault(cut.number, []).append(cut)
        first = next((at for at, item in enumerate(self.items) if item.number in wanted), None)
        if first is not None:
            self.spilled = True
            self._rebuild(first, [_shortened(item, wanted.get(item.number, ())) for item in self.items[first:]])

    def rewind(self, step: int) -> None:
        """Take back this run's own exchanges and notes from a model step on; what stands for dropped ones stays."""
        stays = ("task", "summary", "gap")
        keep = [item for item in self.items if item.number < self.base or item.kind in stays or item.step < step]
        if len(keep) < len(self.items):
            self._rebuild(0, keep)

    def _rebuild(self, first: int, rest: Sequence[Item]) -> None:
        """Show `rest` from the position `first` on: the sums begin anew there."""
        messages = sum(len(item.messages) for item in self.items[:first])
        self.size = sum(item.size for item in self.items[:first])
        del self.items[first:], self.messages[messages:], self.marks[first:]
        for item in rest:
            self._push(item)

    # -- how many tokens it is -----------------------------------------------------------------------------

    def count(self, tokens: int, size: int) -> None:
        """A provider counted `tokens` for a request of this size."""
        self.counted, self.counted_size = min(max(tokens, -(-size // LEAST)), size), size

    def tokens(self, size: int) -> int:
        """The estimate for a size: of what was counted, its share; of more than that, two bytes a token at least."""
        counted, known = self.counted, self.counted_size
        if size <= known:
            return -(-size * counted // known) if size else 0
        more = size - known
        return counted + max(-(-more // UNKNOWN), -(-more * counted // known) if known else 0)

    def likely(self, size: int) -> int:
        """The estimate without a margin: the share of what was counted; four bytes a token while nothing was."""
        return -(-size * self.counted // self.counted_size) if self.counted_size else size // LIKELY

    def room(self, tokens: int) -> int:
        """The largest size whose estimate is `tokens` at most."""
        counted, known = self.counted, self.counted_size
        if tokens <= counted:
            return tokens * known // counted if counted else 0
        more = tokens - counted
        return known + min(more * UNKNOWN, more * known // counted if counted else more * UNKNOWN)

    # -- sessions ------------------------------------------------------------------------------------------

    def carried(self) -> View:
        """The same window for the next run of a session: its requests are history now, and may be dropped."""
        view = View.of(
            (), self.next, counted=self.counted, counted_size=self.counted_size, spilled=self.spilled, since=self.since
        )
        view.left_out, view.size = self.left_out, self.size
        view.items = [msgspec.structs.replace(item, pinned=False) if item.pinned else item for item in self.items]
        view.messages, view.marks = list(self.messages), list(self.marks)  # neither depends on pins
        return view


def made(
    number: int,
    kind: Kind,
    step: int,
    messages: tuple[ChatMessage, ...],
    *,
    origin: str = "",
    failed: bool = False,
    pinned: bool = False,
    cut: tuple[int, ...] = (),
) -> Item:
    """An item with its size and its mark."""
    size = 0
    for message in messages:
        size += size_of(message)
    return Item(number, kind, step, messages, size, _marked(messages), origin, failed, pinned, cut)


def size_of(message: ChatMessage) -> int:
    """The most tokens that a provider can count for a message."""
    total = MESSAGE_OVERHEAD + length(message.content) + length(message.call_id)
    for call in message.calls:
        total += MESSAGE_OVERHEAD + length(call.id) + length(call.name) + length(call.arguments)
    return total


def length(text: str) -> int:
    """Bytes in UTF-8; a lone surrogate counts as the `?` that goes out for it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def within(spans: Spans) -> Callable[[int], bool]:
    """Whether a number is in one of the stretches."""
    numbers = {number for first, last in spans for number in range(first, last + 1)}
    return numbers.__contains__


def spans_of(numbers: Iterable[int]) -> Spans:
    """Numbers in ascending order as stretches."""
    spans: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return tuple(spans)


def _shortened(item: Item, cuts: Sequence[Cut]) -> Item:
    if not cuts:
        return item
    messages = list(item.messages)
    for cut in cuts:
        message = messages[cut.message]
        text = shortened(message.content, cut.head, cut.tail, f"{item.origin}.{cut.message - 1}")
        messages[cut.message] = msgspec.structs.replace(message, content=text)
    done = tuple(sorted({*item.cut, *(cut.message for cut in cuts)}))
    return made(
        item.number,
        item.kind,
        item.step,
        tuple(messages),
        origin=item.origin,
        failed=item.failed,
        pinned=item.pinned,
        cut=done,
    )


def shortened(text: str, head: int, tail: int, handle: str) -> str:
    """The beginning and the end of a text, and how to read the rest."""
    left = len(text) - head - tail
    if left <= 0:
        return text
    between = SPILLED.format(left=left, handle=handle, offset=head)
    return f"{text[:head]}\n{between}\n{text[len(text) - tail :]}"


_encoder: Final = msgspec.json.Encoder()


def _marked(messages: tuple[ChatMessage, ...]) -> str:
    try:
        data = _encoder.encode(messages)
    except UnicodeEncodeError:
        data = repr(messages).encode("utf-8", "backslashreplace")
    return hashlib.sha256(data).hexdigest()[:16]


def _chained(before: str, mark: str) -> str:
    return hashlib.sha256(f"{before}{mark}".encode()).hexdigest()[:16]
