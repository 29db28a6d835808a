"""A journal of many kinds of rows, and what can happen to the bytes of a file, by a seed."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
from msgspec import Struct

from understudy.actors.journal.store import InboxRow, Row
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream

META = {"app": "desk:team", "mood": "calm", "inbox_taken": "3"}


class True_(Struct):
    """What was written."""

    streams: dict[str, list[Row]]
    words: list[InboxRow]


async def write_sample(path: Path, *, runs: int = 8, events: int = 12) -> True_:
    """Streams in turns, with texts that are small, large, larger than a page, and said by several events.

    Of every other stream three events at a time are written after the first, and share a row.
    """
    draw = random.Random(3)
    shared = ["".join(draw.choices("abcdef ", k=size)) for size in (1_100, 3_000, 12_000)]
    streams: dict[str, list[Row]] = {f"{number:04x}": [] for number in range(runs)}
    words: list[InboxRow] = []
    async with opened(SQLiteStore(path)) as store:
        for number in range(events):
            for run, rows in streams.items():
                body = {"at": number + 0.5, "small": "x" * draw.randrange(600), "own": draw.randbytes(8).hex()}
                if draw.random() < 0.3:
                    body["text"] = draw.choice(shared)
                if draw.random() < 0.05:
                    body["bytes"] = draw.randbytes(3_000).hex()
                rows += stream(run, [msgspec.json.encode(body)], after=rows[-1] if rows else None)
                if number == 0 or int(run, 16) % 2 == 0:
                    await store.write(rows[-1:], [number + 0.5])
                elif number % 3 == 0 or number == events - 1:
                    late = rows[(number - 1) // 3 * 3 + 1 :]
                    await store.write(late, [number - len(late) + 1.5 + each for each in range(len(late))])
            words.append(InboxRow(number + 1, 1.0 + number, "approve", b'{"id":"a%d"}' % number))
            await store.post(words[-1].kind, words[-1].body, words[-1].at)
        await store.set_meta(META)
    return True_(streams, words)


def damage(data: bytes, draw: random.Random) -> bytes:
    """Flip bytes, cut the file, or zero a page."""
    at, kind = draw.randrange(len(data)), draw.random()
    if kind < 0.05:
        return data[:at]
    if kind < 0.15:
        page = at // 4096 * 4096
        return data[:page] + bytes(4096) + data[page + 4096 :]
    count = draw.choice((1, 4, 64))
    return (data[:at] + draw.randbytes(count) + data[at + count :])[: len(data)]
