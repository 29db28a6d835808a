"""A process that keeps pages until it is killed: `python posting_app.py JOURNAL TOLD COUNT DURABILITY`.

It writes a line to TOLD for every page that was acknowledged; some milliseconds after the COUNTth it is killed, by a
thread that nothing in it can hold up. With COUNT 0 it posts nothing, lets everything come to
rest, and prints the two states as JSON.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading

from msgspec import json
from posts import Copy, Page, Writer

from understudy import System


async def main(journal: str, told: str, count: int, durability: str) -> None:
    Writer.mailbox_limit = 1_000
    async with System(journal=journal, durability=durability) as system:  # type: ignore[arg-type]  # by the test
        system.spawn(Copy, name="copy")
        writer = system.spawn(Writer, name="writer")
        if not count:
            while system.kernel.office is not None and system.kernel.office.book.waiting:  # noqa: ASYNC110  # killed if late
                await asyncio.sleep(0.01)
            states = [await system.peek(name, lambda actor: actor.state.pages) for name in ("writer", "copy")]
            print(json.encode(states).decode())
            return
        line = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

        acknowledged = 0

        async def send(by: str) -> None:
            nonlocal acknowledged
            for number in range(1, 1_000):
                await writer.post(Page(by, number))
                os.write(line, f"{by} {number}\n".encode())
                acknowledged += 1
                if acknowledged == count:
                    seconds = random.random() / 50  # any instant will do
                    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

        await asyncio.gather(*(send(f"{os.getpid()}-{n}") for n in range(20)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
