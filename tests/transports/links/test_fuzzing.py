"""Millions of frames for a node in another process, most of them wrong: it stays, and its actors are right."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import fuzz_app
import pytest
from fuzz_app import LEDGERS, SECRET, Digest, Report, State, Status
from wirefuzz import Fuzzer

from understudy import System

FRAMES = int(os.environ.get("FUZZ_FRAMES", "10000000"))
SEED = int(os.environ.get("FUZZ_SEED", "7"))
DEADLINE = 20.0
GROWTH = 24 << 20
"""Bytes of memory that a node may have more after ten million frames than after a tenth of them."""
COUNTED = {
    "body", "message", "reported", "magic", "version", "kind", "flags", "size", "number", "checksum", "truncated",
    "secret", "malformed", "mode", "name", "stale",
}  # fmt: skip
REFUSED = {
    "unread", "refused", "repeated", "many", "gap", "credit", "unasked", "channel", "acked", "gone", "dropped",
}  # fmt: skip


class Watched:
    """The node, in its process, and an honest peer that asks it all the time."""

    def __init__(self, process: "subprocess.Popen[str]", friend: System) -> None:
        self.process, self.friend = process, friend
        self.slowest = 0.0
        self.asked = 0

    async def status(self) -> Status:
        return await self.friend.ref("node/reporter").ask(Report(), timeout=DEADLINE)

    async def states(self) -> dict[str, State]:
        return {name: await self.friend.ref(f"node/{name}").ask(Digest(), timeout=DEADLINE) for name in LEDGERS}

    async def keep_asking(self) -> None:
        while True:
            begun = time.monotonic()
            await self.friend.ref("node/ledger0").ask(Digest(), timeout=DEADLINE)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.asked += 1
            await asyncio.sleep(0.05)


def fuzz(frames: int, seed: int, tmp_path: Path, slices: int) -> dict[str, Any]:
    """Fuzz a node; what is checked for any number of frames is checked here."""

    async def main(address: str, process: "subprocess.Popen[str]") -> dict[str, Any]:
        async with System(name="friend", join={"node": address}, secret=SECRET) as friend:
            await friend.joined("node", timeout=DEADLINE)
            node, fuzzer = Watched(process, friend), Fuzzer(address, seed)
            asking = asyncio.create_task(node.keep_asking())
            begun = time.monotonic()
            memory: list[int] = []
            for _ in range(slices):
                await asyncio.to_thread(fuzzer.go, frames // slices)
                assert not asking.done(), asking.exception()
                assert process.poll() is None
                states = await node.states()
                assert states == {name: ledger.state() for name, ledger in fuzzer.twin.ledgers.items()}
                memory.append((await node.status()).rss)
            seconds = time.monotonic() - begun
            asking.cancel()
            status, twin = await node.status(), fuzzer.twin
        assert status.escaped == 0
        assert "error" not in status.counts
        assert status.counts["body"] == twin.counts["body"]
        assert status.counts["message"] == twin.counts["message"]
        assert status.nodes["fuzz: unread"] == twin.counts["unread"]
        for fault, many in fuzzer.faults.items():
            assert many <= status.counts[fault] <= many + fuzzer.strangers
        assert set(status.counts) <= COUNTED
        assert {name.partition(": ")[2] for name in status.nodes} <= REFUSED
        assert {name.partition(": ")[0] for name in status.nodes} <= {"fuzz", "friend"}
        assert status.tasks < 20
        return {
            "sent": fuzzer.sent, "taken": twin.frames, "valid": twin.valid, "seconds": seconds, "memory": memory,
            "slowest": node.slowest, "asked": node.asked, "connections": fuzzer.connections,
            "strangers": fuzzer.strangers, "counts": status.counts,
            "nodes": status.nodes, "messages": sum(ledger.count for ledger in twin.ledgers.values()),
        }  # fmt: skip

    log = tmp_path / "log"
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, fuzz_app.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            found = asyncio.run(main(process.stdout.readline().strip(), process))
            _close(process.stdin)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    # A hundred of each kind of refusal, and ten a second of connections of one node.
    assert len(text.splitlines()) < 100 * (len(REFUSED) + 1) + 10 * (found["seconds"] + 5) * 2
    assert all(len(line) < 1_000 for line in text.splitlines())
    return found


def _close(pipe: IO[str]) -> None:
    pipe.close()


@pytest.mark.promise(359)
def test_twenty_thousand_frames_leave_a_node_and_its_actors_as_the_right_ones_alone_do(tmp_path: Path) -> None:
    found = fuzz(20_000, SEED, tmp_path, slices=2)
    assert found["taken"] >= 20_000
    assert found["valid"] > 200
    assert found["messages"] > 1_000


@pytest.mark.campaign
@pytest.mark.promise(359)
def test_ten_million_frames_leave_a_node_and_its_actors_as_the_right_ones_alone_do(tmp_path: Path) -> None:
    found = fuzz(FRAMES, SEED, tmp_path, slices=10)
    print(found)
    assert found["taken"] >= FRAMES
    assert found["valid"] * 100 >= found["sent"]
    assert max(found["memory"]) - found["memory"][0] < GROWTH
