"""aiosqlite's thread for a connection, with whole functions as its unit of work. Loads aiosqlite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from aiosqlite import Connection

T = TypeVar("T")


class Worker(Connection):
    """aiosqlite has a public call per statement; a transaction in one hop needs its protected `_execute`."""

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread, after what was handed over before. It ends even if the caller is cancelled."""
        # aiosqlite does not annotate it.
        execute = cast(Callable[[Callable[[], T]], Awaitable[T]], self._execute)  # pyright: ignore[reportUnknownMemberType]
        return await execute(work)
