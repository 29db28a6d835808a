"""C9 in small: the floor's frames are checked, and an echo that loses, repeats, confuses or reorders is caught."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from benchmarks import ours, plain, remote, remote_floor, worker
from benchmarks.case import Case, CheckFailed, Found
from benchmarks.remote_floor import ASK, TELL, BadFrame, End, Note, Ping
from benchmarks.suite import BENCHMARKS

SMALL = {
    "remote:window-1": (150, 1, 100),
    "remote:window-64": (200, 64, 100),
    "remote:window-1-10kb": (20, 1, 10_000),
    "remote:window-64-10kb": (100, 64, 10_000),
    "oneway:send": (3_000, 100),
}
OURS = {line: () if line in ("remote:window-64", "oneway:send") else pytest.mark.campaign for line in SMALL}
"""Each starts a process. Those that differ in numbers only are left to a campaign."""


def case(title: str, bug: str = "") -> Case:
    name, _, line = title.partition(":")
    return Case(name, line, SMALL[title], bug=bug)


def test_every_line_that_has_a_floor_is_here() -> None:
    lines = {f"{name}:{line.name}" for name in ("remote", "oneway") for line in BENCHMARKS[name].lines}
    assert lines == {*SMALL, "remote:partition"}


@pytest.mark.parametrize("title", SMALL)
def test_the_floor_answers_rightly_from_another_process_and_counts_what_both_used(title: str) -> None:
    reply: Any = worker.run_once(plain, case(title))
    assert (reply["ok"], reply.get("error")) == (True, None)
    ops, size = SMALL[title][0], SMALL[title][-1]
    both = (reply["extra"]["near_cpu_us"] + reply["extra"]["far_cpu_us"]) * ops / 1e6
    assert reply["cpu"] == pytest.approx(both, abs=1e-5)
    assert reply["extra"]["bytes_per_op"] > size


# -- ours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [pytest.param(line, marks=marks) for line, marks in OURS.items()])
def test_our_nodes_answer_rightly(title: str) -> None:
    reply: Any = worker.run_once(ours, case(title))
    assert (reply["ok"], reply.get("error")) == (True, None)


def test_what_waits_fails_with_a_killed_node_which_is_told_once_and_found_again() -> None:
    reply: Any = worker.run_once(ours, Case("remote", "partition", (150, 64, 100)))
    assert (reply["ok"], reply.get("error")) == (True, None)
    assert reply["extra"]["errors"] == ["ActorStopped"]


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (Case("remote", "window-64", (150, 64, 100), bug="mixes"), "request 101 got another's answer"),
        (Case("oneway", "send", (150, 100), bug="twice"), "handled: expected 150, got 151"),
        pytest.param(
            Case("remote", "window-64", (150, 64, 100), bug="twice"),
            "handled: expected 150, got 151",
            marks=pytest.mark.campaign,
        ),
        pytest.param(
            Case("remote", "partition", (150, 64, 100), bug="gone"),
            "again: expected 150, got 0",
            marks=pytest.mark.campaign,
        ),
        pytest.param(
            Case("remote", "partition", (150, 64, 100), bug="mixes"),
            "request 101 got another's answer",
            marks=pytest.mark.campaign,
        ),
    ],
)
def test_a_deliberate_bug_is_caught_and_gets_no_time(made: Case, error: str) -> None:
    reply = worker.run_once(ours, made)
    assert (reply["ok"], reply["error"]) == (False, error)


# -- a wrong echo ------------------------------------------------------------------------------------------------


class Near:
    """An echo without a process, which may be wrong."""

    def __init__(self, size: int) -> None:
        self.echo = remote.Echo(size)

    async def ask(self, number: int, text: bytes) -> bytes:
        await asyncio.sleep(0)
        self.echo.hear(number, text)
        return text

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        for number in range(count):
            self.echo.hear(number, texts[number % remote.TEXTS])

    async def tally(self) -> remote.Tally:
        return self.echo.tally()

    def cpu_seconds(self) -> float:
        return 0.0

    def wire_bytes(self) -> int | None:
        return None


class Loses(Near):
    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        await super().tell_all(count - 1, texts)


class Confuses(Near):
    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        await super().tell_all(count, [texts[1], *texts[1:]])


class Swaps(Near):
    async def ask(self, number: int, text: bytes) -> bytes:
        return await super().ask(number, self.echo.texts[1] if number == 107 else text)


class Late(Near):
    """One answer comes a few turns late, behind others."""

    async def ask(self, number: int, text: bytes) -> bytes:
        for _ in range(3 * (number == 107)):
            await asyncio.sleep(0)
        return await super().ask(number, text)


class Twice(Near):
    async def ask(self, number: int, text: bytes) -> bytes:
        self.echo.handled += number == 107
        return await super().ask(number, text)


class Asleep(Near):
    async def tally(self) -> remote.Tally:
        return remote.Tally(0, 0, 0)


def play(kind: type[Near], title: str) -> Found:
    @contextlib.asynccontextmanager
    async def opened(case: Case) -> AsyncIterator[Near]:
        yield kind(case.args[-1])

    return asyncio.run(remote.program(opened, case(title)))


@pytest.mark.parametrize("title", SMALL)
def test_a_right_echo_passes(title: str) -> None:
    assert worker.check(case(title), play(Near, title)) == ""


@pytest.mark.parametrize(
    ("kind", "title", "wrong"),
    [
        (Loses, "oneway:send", "handled: expected 3000, got 2999"),
        (Twice, "remote:window-1", "handled: expected 150, got 151"),
        (Confuses, "oneway:send", "wrong: expected 0, got 31"),
    ],
)
def test_a_message_that_is_lost_twice_there_or_changed_is_counted(kind: type[Near], title: str, wrong: str) -> None:
    assert worker.check(case(title), play(kind, title)) == wrong


@pytest.mark.parametrize(
    ("kind", "title", "wrong"),
    [
        (Swaps, "remote:window-1", "request 107 got another's answer"),
        (Late, "remote:window-64", "answer 108 came where 107 was due"),
        (Asleep, "remote:window-1", "did not handle the requests of the warm-up"),
    ],
)
def test_an_answer_that_is_wrong_or_out_of_turn_ends_the_run(kind: type[Near], title: str, wrong: str) -> None:
    with pytest.raises(CheckFailed, match=wrong):
        play(kind, title)


# -- the floor's frames ------------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))


async def _written() -> bytes:
    end, wire = End(100), Wire()
    end.connection_made(wire)
    text = remote.payloads(100)[0]
    end.put(TELL, Note(0, text))
    end.put(TELL, Note(1, remote.payloads(100)[1]))
    end.put(ASK, (1, 5.0, Ping(2, remote.payloads(100)[2])))
    await asyncio.sleep(0)
    assert len(wire.writes) == 1, "what is sent in one turn goes out with one write"
    return wire.writes[0]


async def _hear(*pieces: bytes) -> tuple[remote.Tally, list[bytes]]:
    end, wire = End(100), Wire()
    end.connection_made(wire)
    for piece in pieces:
        end.data_received(piece)
    await asyncio.sleep(0)
    return end.echo.tally(), wire.writes


def test_frames_are_heard_in_order_wherever_the_stream_is_cut() -> None:
    data = asyncio.run(_written())
    for at in (0, 1, 23, 24, 25, len(data) // 2, len(data) - 1):
        tally, answers = asyncio.run(_hear(data[:at], data[at:]))
        assert tally == (3, 0, 0)
        assert len(answers) == 1
    assert data[:4] == bytes([0xD7, 1, TELL, 0])


@pytest.mark.parametrize("at", [0, 1, 15, 20, 23, 24, 60])
def test_a_damaged_frame_is_refused(at: int) -> None:
    data = bytearray(asyncio.run(_written()))
    data[at] ^= 1
    with pytest.raises(BadFrame):
        asyncio.run(_hear(bytes(data)))


def test_a_repeated_frame_is_refused() -> None:
    data = asyncio.run(_written())
    with pytest.raises(BadFrame, match="frame 1 of version 1 where 3 was due"):
        asyncio.run(_hear(data, data))


def test_what_waits_for_an_answer_fails_with_the_connection() -> None:
    async def lose() -> None:
        end = End(100)
        end.connection_made(Wire())
        asked = end.ask(Ping(0, b""))
        end.connection_lost(None)
        await asked

    with pytest.raises(ConnectionResetError):
        asyncio.run(lose())


def test_the_floor_is_as_it_was() -> None:
    """Change it, and every ratio to it means something else: then change this, too, and say so."""
    assert remote_floor.digest() == "395f6d106839fba1"
