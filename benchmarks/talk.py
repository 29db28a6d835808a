"""C12 without any library: the messages, the summariser's hash, what a provider sees, and what a turn cost.

What a turn costs is told in microseconds and compared in *beats*: a fixed piece of work done beside each turn. A
machine at work is now quick, now slow, by more than what is looked for.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.reference import oracle

LIMIT: Final = 8_000
AT: Final = 0.8
TURN: Final = 200
SUMMARY: Final = 100
PINNED: Final = 5
KEPT: Final = 10
"""The last turns, which a summary leaves alone."""
TITLE: Final = "Summary of what came before:\n"
ENDS: Final = 100
"""Turns at both ends whose costs are compared."""
STEEP: Final = 1.5
"""A turn at the end may not take this many times as much as one at the beginning. The aim is 1.2."""
DEAR: Final = 2
"""The dearest turns of each end are left out: a full garbage collection comes ever more rarely, and falls anywhere."""
JUDGED: Final = 1_000
_HASH = re.compile(r"hash (\d+)")
T = TypeVar("T")


class Texts:
    """The messages, made beforehand: 50 draws below 1000 from the seed 9, joined by blanks."""

    def __init__(self, turns: int) -> None:
        random = oracle().Lehmer(9)
        self.texts = [" ".join(str(random.below(1000)) for _ in range(50)) for _ in range(turns)]
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        self.modulus: int = oracle().M31

    def turns_in(self, text: str) -> Iterator[int]:
        """The turns whose message is in a text: a line of it, without quotes or role."""
        for line in text.split("\n"):
            number = self.numbers.get(line.rpartition(": ")[2].strip('"'))
            if number is not None:
                yield number

    def on(self, value: int, turn: int) -> int:
        return (value * 48271 + turn + 1) % self.modulus

    def hashed(self, messages: Iterable[str], leave: int | None = None) -> tuple[int, int]:
        """The hash of a summary continued over the turns of some messages, but for `leave`; and how many they are."""
        value, turns = 0, 0
        for text in messages:
            found = _HASH.search(text)
            value = int(found[1]) if found is not None else value
            for turn in self.turns_in(text):
                if turn != leave:
                    value, turns = self.on(value, turn), turns + 1
        return value, turns


class Heard:
    """What the provider sees: counts declared tokens, and keeps of every request what the check needs."""

    def __init__(self, texts: Texts, *, tools: bool) -> None:
        self.texts, self._tools = texts, tools
        self.at: list[tuple[float, float, float]] = []
        """By turn, CPU seconds: when the provider was asked, when it began its beat, when it had ended."""
        self.over = 0
        self.unpinned = ""
        self.last: Sequence[str] = ()

    def hear(self, messages: Sequence[str]) -> int:
        """One request, by the texts of its messages: the declared tokens. Call it first, and then `done`."""
        self._asked, turn = time.process_time(), len(self.at)
        self.last = messages
        shown = [text for text in messages if len(text) > 100 or _is_summary(text)]
        tokens = sum(SUMMARY if _is_summary(text) else TURN for text in shown)
        self.over += tokens > LIMIT
        pinned = self.texts.texts[: min(turn + (not self._tools), PINNED)]
        if [text.strip('"') for text in shown[: len(pinned)]] != pinned:
            self.unpinned = self.unpinned or f"turn {turn}: the first {PINNED} messages are not there, or changed"
        return tokens

    def done(self) -> None:
        """The reply is made."""
        began = time.process_time()
        beat()
        self.at.append((self._asked, began, time.process_time()))

    def found(self) -> Found:
        """What the oracle knows. Raises `CheckFailed` when the pinned messages were missing."""
        if self.unpinned:
            raise CheckFailed(self.unpinned)
        value, pinned = 0, 0
        for text in self.last:
            found = _HASH.search(text)
            value = int(found[1]) if found is not None else value
            for turn in self.texts.turns_in(text):
                pinned += turn < PINNED
                value = self.texts.on(value, turn) if turn >= PINNED else value
        return {"pinned": pinned, "order_hash": value, "over": self.over}

    def compare(self, case: Case) -> None:
        """The CPU of the last turns against the first. Raises `CheckFailed`."""
        costs = [(later[0] - done) * 1e6 for (_, _, done), later in itertools.pairwise(self.at)]
        compare(case, "cpu", costs, [(done - began) * 1e6 for _, began, done in self.at[1:]])


_WORDS: Final = [f"word {number}" for number in range(40)]


def beat() -> None:
    """A fixed piece of work of the kind that a turn is made of."""
    for _ in range(6):
        json.loads(json.dumps({word: [len(word), word] for word in _WORDS}))


def _is_summary(text: str) -> bool:
    return text.startswith(f"{TITLE}hash ")


def compare(case: Case, what: str, each: list[float], beats: list[float]) -> None:
    """The last turns against the first. Raises `CheckFailed` where a turn costs the more the more there were."""
    ends = [
        sum(sorted(cost / beat for cost, beat in zip(each[part], beats[part], strict=True))[:-DEAR])
        for part in (slice(ENDS), slice(-ENDS, None))
    ]
    ratio = ends[1] / ends[0]
    case.extra[f"{what}_first"] = round(sum(each[:ENDS]) / ENDS, 1)
    case.extra[f"{what}_last"] = round(sum(each[-ENDS:]) / ENDS, 1)
    case.extra[f"{what}_ratio"] = round(ratio, 3)
    if len(each) >= JUDGED and ratio > STEEP:
        raise CheckFailed(f"{what}: a turn at the end takes {ratio:.2f} times as much as one at the beginning")


class Trimmer:
    """What the user of a library without such a rule writes: pinned turns, a summary, the last turns.

    `text` tells the text of an item; `lead` items before a turn's own belong to it, and `tail` items after.
    """

    def __init__(self, texts: Texts, *, lead: int = 0, tail: int = 0) -> None:
        self.texts, self.lead, self.tail = texts, lead, tail
        self.compactions = 0

    def trim(self, items: list[T], text: Callable[[T], str], summary: Callable[[str], T]) -> list[T] | None:
        """The shorter list, when one more turn would pass 80 % of the limit; else None."""
        said = [text(item) for item in items]
        turns = [at for at, each in enumerate(said) if each.strip('"') in self.texts.numbers]
        if len(turns) * TURN + SUMMARY * any(map(_is_summary, said)) + TURN <= AT * LIMIT:
            return None
        self.compactions += 1
        head, rest = turns[PINNED - 1] + 1 + self.tail, turns[-KEPT] - self.lead
        value, _ = self.texts.hashed(said[head:rest])
        return [*items[:head], summary(f"{TITLE}hash {value}"), *items[rest:]]
