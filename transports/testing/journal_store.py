"""One conformance suite for `JournalStore`, run by the store in memory, by SQLite, and by any third one.

A store conforms if `check_store` passes. Each check in `CHECKS` takes a new, empty store that is not open yet,
and leaves it closed; they can be run one by one:

    @pytest.mark.parametrize("name", CHECKS)
    def test_my_store_conforms(name: str, tmp_path: Path) -> None:
        anyio.run(CHECKS[name], MyStore(tmp_path / "journal"))

Each check in `PAIRS` takes two stores on one place, as two processes have them: for a store that outlives its object.
Not covered, because it takes more than calls: what a killed process or a damaged file leaves behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import anyio
from msgspec.structs import replace

from understudy.actors.errors import JournalClosed, JournalDamaged, JournalFailed, JournalOwned, UsageError
from understudy.actors.journal.store import Head, InboxRow, JournalStore, Row, chain
from understudy.transports.testing.journal_kit import expect as expect
from understudy.transports.testing.journal_kit import opened as opened
from understudy.transports.testing.journal_kit import refusal as refusal
from understudy.transports.testing.journal_kit import stream as stream
from understudy.transports.testing.journal_sharing import (
    a_stale_incarnation_writes_nothing,
    after_a_failed_write_the_writer_writes_nothing_more,
    one_owner_at_a_time,
    others_see_what_is_committed,
    who_looks_cannot_write_while_there_is_an_owner,
)

Check = Callable[[JournalStore], Awaitable[None]]
PairCheck = Callable[[JournalStore, JournalStore], Awaitable[None]]
S = TypeVar("S", bound=JournalStore)


async def check_store(make: Callable[[], S], *, again: Callable[[S], JournalStore] | None = None) -> None:
    """Run every check, each on a new store from `make`. Raises `AssertionError` naming the first that fails.

    `again` gives another store on the place of a store from `make`, as another process would have it; without it the
    checks in `PAIRS` are left out.
    """
    for name, check in CHECKS.items():
        store = make()
        await _run(name, check(store), store)
    if again is None:
        return
    for name, pair in PAIRS.items():
        store = make()
        other = again(store)
        await _run(name, pair(store, other), store, other)


async def _run(name: str, check: Awaitable[None], *stores: JournalStore) -> None:
    try:
        await check
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        for store in stores:
            await store.aclose()


async def a_new_store_is_empty(store: JournalStore) -> None:
    """No streams, no values, no words, and reading a run that does not exist gives nothing."""
    async with opened(store):
        expect(await store.heads(), [], "heads")
        expect(await store.tails(), [], "tails")
        expect(await store.read("a"), [], "a stream that does not exist")
        expect(dict(await store.meta()), {}, "meta")
        expect(await store.take(0), [], "inbox")


async def rows_come_back_as_written(store: JournalStore) -> None:
    """Over several writes, and after closing and opening again."""
    rows = stream("a", [b"one", b"two", b"three"])
    async with opened(store):
        await store.write(rows[:1], [1.0])
        await store.write(rows[1:], [2.0, 3.0])
        expect(await store.read("a"), rows, "rows")
    async with opened(store):
        expect(await store.read("a"), rows, "rows after opening again")


async def a_stream_goes_on_after_opening_again(store: JournalStore) -> None:
    """The next number is known to the store, not to the process that wrote the last one."""
    first = stream("a", [b"one", b"two"])
    more = stream("a", [b"three"], after=first[-1])
    async with opened(store):
        await store.write(first, [1.0, 2.0])
    async with opened(store):
        await refusal(JournalFailed, store.write(first[:1], [3.0]), "a number written before")
        await store.write(more, [3.0])
        expect(await store.read("a"), first + more, "rows")


async def one_write_may_hold_several_streams(store: JournalStore) -> None:
    """Interleaved; each stream keeps its own numbers and its own chain."""
    a, b = stream("a", [b"1", b"2", b"3"]), stream("@node", [b"x", b"y"])
    async with opened(store):
        await store.write([a[0], b[0], a[1], b[1], a[2]], [1.0, 2.0, 3.0, 4.0, 5.0])
        expect(await store.read("a"), a, "first stream")
        expect(await store.read("@node"), b, "second stream")
        heads = [Head("a", 3, a[-1].crc, 1.0, 5.0), Head("@node", 2, b[-1].crc, 2.0, 4.0)]
        expect(await store.heads(), heads, "heads")


async def heads_are_in_the_order_streams_began(store: JournalStore) -> None:
    """Not in the order of names or times, and `first_at` stays when a stream grows."""
    async with opened(store):
        b, a = stream("b", [b"1", b"2"]), stream("a", [b"1"])
        await store.write(b[:1], [9.0])
        await store.write(a, [2.0])
        await store.write(b[1:], [10.5])
        wanted = [Head("b", 2, b[1].crc, 9.0, 10.5), Head("a", 1, a[0].crc, 2.0, 2.0)]
        expect(await store.heads(), wanted, "heads")
        expect(await store.tails(), [b[1], a[0]], "tails")
    async with opened(store):
        expect(await store.heads(), wanted, "heads after opening again")
        expect(await store.tails(), [b[1], a[0]], "tails after opening again")


async def a_gap_refuses_the_whole_write(store: JournalStore) -> None:
    """Of all streams in it, rows before the gap included."""
    a, b = stream("a", [b"1", b"2", b"3"]), stream("b", [b"1"])
    async with opened(store):
        await store.write(a[:1], [1.0])
        error = await refusal(JournalFailed, store.write([b[0], a[2]], [2.0, 2.0]), "a gap")
        expect("a:3" in str(error), True, f"the error names the place ({error})")
        expect(await store.read("a"), a[:1], "the stream with the gap")
        expect(await store.read("b"), [], "the other stream")
        expect([head.run for head in await store.heads()], ["a"], "heads")
        await store.write([b[0], a[1], a[2]], [2.0, 2.0, 2.0])
        expect(await store.read("a"), a, "the stream, written in order")


async def a_repeated_number_refuses_the_whole_write(store: JournalStore) -> None:
    """In one write as in two."""
    a, other = stream("a", [b"1", b"2"]), stream("a", [b"1", b"other"])
    async with opened(store):
        await store.write(a, [1.0, 2.0])
        await refusal(JournalFailed, store.write(other[1:], [3.0]), "a number twice")
        await refusal(
            JournalFailed, store.write([*stream("b", [b"1"]), *stream("b", [b"2"])], [3.0, 3.0]), "twice at once"
        )
        await refusal(JournalFailed, store.write(stream("c", [b"0", b"1"])[1:], [3.0]), "a stream that starts at 2")
        expect(await store.read("a"), a, "rows")
        expect([head.run for head in await store.heads()], ["a"], "heads")


async def an_empty_write_changes_nothing(store: JournalStore) -> None:
    """Nor does it fail."""
    async with opened(store):
        await store.write([], [])
        expect(await store.heads(), [], "heads")


async def payloads_are_opaque(store: JournalStore) -> None:
    """Empty, with NULs, not UTF-8, half a surrogate pair, a megabyte."""
    payloads = [
        b"",
        b"\0",
        b"a\0b",
        b"\xff\xfe",
        "\ud800".encode("utf-8", "surrogatepass"),
        b'{"$":1}',
        bytes(1_000_000),
    ]
    rows = stream("a", payloads)
    async with opened(store):
        await store.write(rows, [1.0] * len(rows))
        expect(await store.read("a") == rows, True, "the same bytes come back")


async def large_texts_come_back_as_written(store: JournalStore) -> None:
    """Said once or often, in one stream or several, with escapes, around sizes at which a store may keep them apart."""
    texts = [letter * size for letter in (b"x", b'\\"', b"\\\\", b"\xff") for size in (511, 512, 1_023, 1_024, 5_000)]
    payloads = [b'{"a":"' + text + b'","b":[1,"' + text + b'"]}' for text in texts]
    payloads += [b'"' + b"x" * 5_000, b'"' * 5_000, b'"' + b"\\" * 5_001 + b'"', *payloads[:3]]
    a, b = stream("a", payloads), stream("b", payloads)
    async with opened(store):
        await store.write([*a, *b], [1.0] * 2 * len(payloads))
        expect(await store.read("a") == a, True, "the same bytes come back")
        expect(await store.tails(), [a[-1], b[-1]], "tails")
    async with opened(store, owner=False):
        expect(await store.read("b") == b, True, "the same bytes come back after opening again")


async def names_of_runs_are_opaque(store: JournalStore) -> None:
    """Compared as they are: case, trailing blanks, quotes and Unicode forms count."""
    names = ["a", "A", "a ", "", "0", "00", "it's", '"', "%", "é", "e\u0301", "運行", "a\0b", "a:1", "x" * 1_000]
    async with opened(store):
        for name in names:
            await store.write(stream(name, [name.encode()]), [1.0])
        expect([head.run for head in await store.heads()], names, "heads")
        for name in names:
            expect(await store.read(name), stream(name, [name.encode()]), f"the stream {name!r:.20}")


async def a_damaged_row_is_refused_with_its_place(store: JournalStore) -> None:
    """A wrong checksum, a wrong length, a chain begun anew; other streams stay readable."""
    good = stream("good", [b"1", b"2"])
    crc, cut, new = (stream(name, [b"1", b"2", b"3"]) for name in ("crc", "cut", "new"))
    crc[1] = replace(crc[1], crc=crc[1].crc ^ 1)
    cut[2] = replace(cut[2], payload=b"")
    new[1] = replace(new[1], crc=chain(0, "new", 2, new[1].payload))
    async with opened(store):
        for rows in (good, crc, cut, new):
            await store.write(rows, [1.0] * len(rows))
        for run, seq in (("crc", 2), ("cut", 3), ("new", 2)):
            error = await refusal(JournalDamaged, store.read(run), f"damage in {run}")
            assert isinstance(error, JournalDamaged)
            expect((error.run, error.seq), (run, seq), "the place")
            expect(f"{run}:{seq}" in str(error), True, f"the place in the text ({error})")
        expect(await store.read("good"), good, "another stream")


async def meta_is_added_and_replaced(store: JournalStore) -> None:
    """And stays."""
    async with opened(store):
        await store.set_meta({"app": "desk:team", "version": "1"})
        await store.set_meta({})
        await store.set_meta({"version": "2", "mood": "é\n"})
        expect(dict(await store.meta()), {"app": "desk:team", "version": "2", "mood": "é\n"}, "meta")
    async with opened(store):
        expect(
            dict(await store.meta()), {"app": "desk:team", "version": "2", "mood": "é\n"}, "meta after opening again"
        )


async def the_inbox_only_grows(store: JournalStore) -> None:
    """Ids count from 1; taking removes nothing; a body is opaque."""
    words = [
        InboxRow(1, 1.5, "approve", b'{"id":"a7"}'),
        InboxRow(2, 0.5, "stop", b""),
        InboxRow(3, 2.0, "approve", b"\xff\0"),
    ]
    async with opened(store):
        for word in words:
            expect(await store.post(word.kind, word.body, word.at), word.id, "id")
        expect(await store.take(0), words, "all")
        expect(await store.take(0), words, "all, again")
        expect(await store.take(2), words[2:], "above 2")
        expect(await store.take(3), [], "above the last")
    async with opened(store):
        expect(await store.take(1), words[1:], "above 1 after opening again")
        expect(await store.post("stop", b"", 3.0), 4, "the next id after opening again")


async def who_is_not_the_owner_reads_and_posts(store: JournalStore) -> None:
    """That is what another process may do."""
    rows = stream("a", [b"1"])
    async with opened(store):
        await store.write(rows, [1.0])
        await store.set_meta({"app": "desk"})
    async with opened(store, owner=False):
        expect(await store.read("a"), rows, "rows")
        expect(await store.heads(), [Head("a", 1, rows[0].crc, 1.0, 1.0)], "heads")
        expect(dict(await store.meta()), {"app": "desk"}, "meta")
        expect(await store.post("approve", b"{}", 2.0), 1, "id")
    async with opened(store):
        expect(await store.take(0), [InboxRow(1, 2.0, "approve", b"{}")], "what the owner sees")


async def a_closed_store_refuses_every_call(store: JournalStore) -> None:
    """Before `open` and after `aclose`, which is safe to call at any time."""
    await store.aclose()
    for moment in ("before open", "after aclose"):
        await refusal(JournalClosed, store.write(stream("a", [b"1"]), [1.0]), f"write {moment}")
        await refusal(JournalClosed, store.read("a"), f"read {moment}")
        await refusal(JournalClosed, store.heads(), f"heads {moment}")
        await refusal(JournalClosed, store.tails(), f"tails {moment}")
        await refusal(JournalClosed, store.meta(), f"meta {moment}")
        await refusal(JournalClosed, store.set_meta({"a": "b"}), f"set_meta {moment}")
        await refusal(JournalClosed, store.post("stop", b"", 1.0), f"post {moment}")
        await refusal(JournalClosed, store.take(0), f"take {moment}")
        await store.open()
        await store.aclose()
        await store.aclose()


async def calls_may_overlap(store: JournalStore) -> None:
    """Posts and reads while the writer writes: nothing is lost, every read is a whole number of writes."""
    rows = stream("a", [bytes([number]) for number in range(60)])
    seen: list[int] = []

    async def write() -> None:
        for start in range(0, 60, 3):
            await store.write(rows[start : start + 3], [1.0] * 3)

    async def post() -> None:
        for number in range(20):
            await store.post("word", bytes([number]), 1.0)

    async def read() -> None:
        for _ in range(20):
            seen.append(len(await store.read("a")))

    async with opened(store):
        async with anyio.create_task_group() as group:
            for work in (write, post, post, read):
                group.start_soon(work)
        expect(await store.read("a"), rows, "rows")
        words = await store.take(0)
        expect([word.id for word in words], list(range(1, 41)), "ids")
        expect(sorted(word.body for word in words), sorted(2 * [bytes([n]) for n in range(20)]), "words")
    expect([count for count in seen if count % 3], [], "reads that saw part of a write")


async def a_cancelled_write_is_all_or_nothing(store: JournalStore) -> None:
    """And the store goes on from what is there."""
    rows = stream("a", [b"1", b"2", b"3"])
    async with opened(store):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.write(rows, [1.0] * 3)
        kept = await store.read("a")
        expect(kept in ([], rows), True, f"all or nothing ({len(kept)} of 3 kept)")
        more = stream("a", [b"4"], after=kept[-1] if kept else None)
        await store.write(more, [2.0])
        expect(await store.read("a"), kept + more, "rows")


async def a_write_cancelled_under_way_is_all_or_nothing(store: JournalStore) -> None:
    """After each of the first turns of the event loop; by the loop's own cancellation, which respects no shield."""
    kept: list[Row] = []
    async with opened(store):
        for turns in range(8):
            rows = stream("a", [b"%d" % turns, bytes(10_000), b""], after=kept[-1] if kept else None)
            task = asyncio.ensure_future(store.write(rows, [1.0] * 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            found = await store.read("a")
            expect(found in (kept, kept + rows), True, f"all or nothing after {turns} turns ({len(found)} rows)")
            expect(task.cancelled() or found == kept + rows, True, f"what was acknowledged after {turns} turns")
            kept = found
        expect([head.seq for head in await store.heads()], [len(kept)] * bool(kept), "heads")


async def who_is_not_the_owner_writes_nothing(store: JournalStore) -> None:
    """Neither events nor values: both are refused as `JournalOwned`, and the next owner finds nothing of it."""
    async with opened(store):
        await store.set_meta({"app": "desk"})
    async with opened(store, owner=False):
        await refusal(JournalOwned, store.write(stream("a", [b"1"]), [1.0]), "write without ownership")
        await refusal(JournalOwned, store.set_meta({"app": "mine"}), "set_meta without ownership")
    async with opened(store):
        expect(await store.heads(), [], "heads")
        expect(dict(await store.meta()), {"app": "desk"}, "meta")


async def pruned_streams_are_gone_and_others_stay(store: JournalStore) -> None:
    """With what is appended in the same write; texts that others say too are still there."""
    text = b'{"text":"' + b"said by both " * 200 + b'"}'
    a, b, c = stream("a", [text, b"2"]), stream("b", [text, b"own"]), stream("c", [b"1", b'"' + b"x" * 3_000 + b'"'])
    note = stream("@pruned", [b"what is kept of it", b"more"])
    async with opened(store):
        await store.write([*a, *b, *c], [1.0] * 6)
        await store.prune(["a", "none", "c"], note[:1], [2.0])
        expect([head.run for head in await store.heads()], ["b", "@pruned"], "heads")
        expect([await store.read(run) for run in ("a", "c")], [[], []], "pruned streams")
        expect(await store.read("b"), b, "another stream")
        await store.prune(["b"], note[1:], [3.0])
        expect(await store.tails(), note[1:], "tails")
    async with opened(store):
        expect([head.run for head in await store.heads()], ["@pruned"], "heads after opening again")
        expect(await store.read("@pruned"), note, "what was appended")


async def a_refused_prune_changes_nothing(store: JournalStore) -> None:
    """A gap in what is appended, a time too few, no ownership."""
    a, note = stream("a", [b"1"]), stream("@pruned", [b"1", b"2"])
    async with opened(store):
        await store.write(a, [1.0])
        await refusal(JournalFailed, store.prune(["a"], note[1:], [2.0]), "a gap")
        await refusal(UsageError, store.prune(["a"], note[:1], []), "no time")
        expect([head.run for head in await store.heads()], ["a"], "heads")
    async with opened(store, owner=False):
        await refusal(JournalOwned, store.prune(["a"], note[:1], [2.0]), "prune without ownership")
        expect(await store.read("a"), a, "rows")


async def what_is_open_cannot_be_opened(store: JournalStore) -> None:
    """It is a wrong use, and leaves the store as it was."""
    async with opened(store):
        await refusal(UsageError, store.open(), "open again")
        await refusal(UsageError, store.open(owner=False), "open again without ownership")
        await store.write(stream("a", [b"1"]), [1.0])
        expect(len(await store.read("a")), 1, "rows")


async def a_time_is_needed_for_each_row(store: JournalStore) -> None:
    """One too few or too many is a wrong use, and nothing is kept."""
    rows = stream("a", [b"1", b"2"])
    async with opened(store):
        for times in ([1.0], [1.0, 2.0, 3.0]):
            await refusal(UsageError, store.write(rows, times), f"{len(times)} times")
        expect(await store.heads(), [], "heads")


async def a_refused_read_stops_nothing(store: JournalStore) -> None:
    """Damage in one stream, met again and again, leaves writing, reading, values and words as they were."""
    bad, good = stream("bad", [b"1"]), stream("good", [b"1", b"2"])
    async with opened(store):
        await store.write([replace(bad[0], crc=bad[0].crc ^ 1), good[0]], [1.0, 1.0])
        for _ in range(2):
            await refusal(JournalDamaged, store.read("bad"), "damage")
        await store.write(good[1:], [2.0])
        await store.set_meta({"app": "desk"})
        expect(await store.post("stop", b"", 1.0), 1, "id")
        expect(await store.read("good"), good, "rows")


_ALL: Final[tuple[Check, ...]] = (
    a_new_store_is_empty,
    rows_come_back_as_written,
    a_stream_goes_on_after_opening_again,
    one_write_may_hold_several_streams,
    heads_are_in_the_order_streams_began,
    a_gap_refuses_the_whole_write,
    a_repeated_number_refuses_the_whole_write,
    an_empty_write_changes_nothing,
    payloads_are_opaque,
    large_texts_come_back_as_written,
    names_of_runs_are_opaque,
    a_damaged_row_is_refused_with_its_place,
    meta_is_added_and_replaced,
    the_inbox_only_grows,
    who_is_not_the_owner_reads_and_posts,
    a_closed_store_refuses_every_call,
    calls_may_overlap,
    a_cancelled_write_is_all_or_nothing,
    a_write_cancelled_under_way_is_all_or_nothing,
    who_is_not_the_owner_writes_nothing,
    what_is_open_cannot_be_opened,
    a_time_is_needed_for_each_row,
    a_refused_read_stops_nothing,
    pruned_streams_are_gone_and_others_stay,
    a_refused_prune_changes_nothing,
    after_a_failed_write_the_writer_writes_nothing_more,
    a_stale_incarnation_writes_nothing,
)
_BOTH: Final[tuple[PairCheck, ...]] = (
    one_owner_at_a_time,
    others_see_what_is_committed,
    who_looks_cannot_write_while_there_is_an_owner,
)
CHECKS: Final[Mapping[str, Check]] = MappingProxyType({getattr(check, "__name__", ""): check for check in _ALL})
"""The checks by name, in the order in which `check_store` runs them."""
PAIRS: Final[Mapping[str, PairCheck]] = MappingProxyType({getattr(check, "__name__", ""): check for check in _BOTH})
"""Those that take two stores on one place, neither of them open."""
