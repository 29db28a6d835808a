"""What the dispatcher asks of the kernel, and what it tells it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from understudy.actors.cell import Cell
from understudy.actors.delivery import Entry, Envelope, Handler, Life


class Outcomes(Protocol):
    """What the kernel does at the begin and the end of a delivery."""

    def start(self, cell: Cell, life: Life) -> Coroutine[Any, Any, None] | None:
        """Make the actor; what is left to await."""
        ...

    def admit(self, cell: Cell, life: Life, entry: Entry) -> tuple[Handler, bool] | None:
        """The handler for an entry and whether it is an `async def`; None for what was not wanted and disposed of."""
        ...

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """The handler returned."""
        ...

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """The handler raised, whatever it raised."""
        ...

    def settled(self, cell: Cell) -> None:
        """The last running delivery of a cell has ended, and somebody waits for that."""
        ...
