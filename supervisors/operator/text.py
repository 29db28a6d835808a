"""How names, amounts and calls are written for people. Pure.

Whatever a model, a tool or a file said may hold control characters; nothing reaches a terminal but through `clean`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, TextIO

import msgspec

SHORT: Final = 4
"""Digits that a shortened run id has at least."""
ARGUMENTS: Final = 72
"""Characters of the arguments of a call that a row shows."""


def clean(text: str, limit: int = 0) -> str:
    """`text` on one line, everything unprintable escaped; at most `limit` characters when given."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if limit and len(text) > limit:
        return text[: max(0, limit - 1)] + "…"
    return text


def fit(text: str, stream: TextIO) -> str:
    """`text` with "?" for what the stream's encoding cannot say, so that writing it never raises."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def say(stream: TextIO, *lines: str) -> None:
    """Write lines and flush."""
    for line in lines:
        stream.write(fit(line.rstrip() + "\n", stream))
    stream.flush()


def name_of(path: str) -> str:
    """The name people see: "inspector-2" for "audit/inspector/2", "reviewer" for "audit/reviewer"."""
    parts = path.split("/")
    if len(parts) > 1 and parts[-1].isdigit():
        return clean(f"{parts[-2]}-{parts[-1]}")
    return clean(parts[-1])


def shorten(run: str, known: Iterable[str]) -> str:
    """The shortest prefix of `run`, of at least `SHORT` characters, that no other of `known` begins with."""
    shared = max((_shared(run, other) for other in known if other != run), default=0)
    return run[: max(SHORT, shared + 1)]


def _shared(one: str, other: str) -> int:
    same = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def count(number: int) -> str:
    """640, 1.9k, 38k, 1.2M."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= limit:
            value = number / limit
            return f"{value:.1f}{unit}" if value < 10 and f"{value:.1f}"[-1] != "0" else f"{value:.0f}{unit}"
    return str(number)


def duration(seconds: float) -> str:
    """2 ms, 9.4 s, 3:07 (minutes), 25:03:07 (hours)."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pause(seconds: float) -> str:
    """0.5 s: a back-off, as it was configured."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def many(number: int, thing: str) -> str:
    """`1 step`, `3 steps`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def dollars(micro: int) -> str:
    """Micro-dollars as dollars."""
    return f"{micro / 1_000_000:.2f}" if micro >= 10_000 or not micro else f"{micro / 1_000_000:.6f}".rstrip("0")


def call_text(name: str, arguments: str, limit: int = ARGUMENTS) -> str:
    """`read_metadata("attrs ")`: the value alone for one argument, names for more, JSON text as it is when broken.

    `limit` is in characters of the arguments; 0 shows all of them.
    """
    return f"{clean(name)}({clean(_arguments(arguments), limit)})"


def _arguments(text: str) -> str:
    try:
        values = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):  # a model wrote it
        return text
    if len(values) == 1:
        return _value(next(iter(values.values())))
    return ", ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def table(rows: Iterable[tuple[str, ...]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of one length as lines with aligned columns, those in `right` to the right; the last is not padded."""
    listed = list(rows)
    if not listed:
        return []
    widths = [max(len(row[column]) for row in listed) for column in range(len(listed[0]))]
    return ["  ".join(_pad(row, widths, right)).rstrip() for row in listed]


def _pad(row: tuple[str, ...], widths: list[int], right: frozenset[int]) -> Iterable[str]:
    for column, cell in enumerate(row):
        yield cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
