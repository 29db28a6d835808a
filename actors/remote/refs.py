"""The ref of an address at another node. What any `Ref` of it does, and sooner: there is no mailbox to look at."""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import Any, Generic, Literal, TypeVar

from understudy.actors.cell import Cell
from understudy.actors.delivery import DELIVERY, Life, fenced
from understudy.actors.errors import UsageError
from understudy.actors.messages import Asks
from understudy.actors.refs import ASK_SECONDS, SEND_SECONDS, Mr, Ref, Refused, check_seconds
from understudy.actors.remote.far import FarCell

T = TypeVar("T")


class FarRef(Ref[Mr], Generic[Mr]):
    """See the module. `far` is its cell."""

    __slots__ = ("far",)

    def __init__(self, cell: FarCell) -> None:
        super().__init__(cell)
        self.far = cell

    def tell(self, message: Mr) -> Literal[True] | Refused:
        """See `Ref.tell`. True: it is on its way, and the receiver has promised room for it."""
        far = self.far
        record = DELIVERY.get()
        sender: Cell | None = None
        if record is not None:
            life: Any = record if type(record) is Life else record.life  # type: ignore[union-attr]  # else an envelope
            if life.fenced:
                raise fenced(life)
            sender = life.cell
        if get_ident() == far.kernel.thread and far.tell(message):
            return True
        return far.kernel.post(far, (message, sender))

    async def send(
        self, message: Mr, *, timeout: float = SEND_SECONDS, reliable: bool = False
    ) -> Literal[True] | Refused:
        """See `Ref.send`."""
        far = self.far
        if not reliable and DELIVERY.get() is None and get_ident() == far.kernel.thread:
            if timeout is not SEND_SECONDS:
                check_seconds(far, timeout)
            if far.tell(message):
                return True
        return await super().send(message, timeout=timeout, reliable=reliable)

    async def post(self, message: Mr, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Raises `UsageError`: durable messages stay within a node."""
        raise UsageError(f"post to {self.path}: durable messages stay within a node; use send(..., reliable=True)")

    async def ask(
        self,
        message: Asks[Mr, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """See `Ref.ask`. `on_restart` and `wait` are the other node's to decide: `wait`."""
        far = self.far
        if DELIVERY.get() is None and far.sent < far.allowed and type(message) in far.wanted and not far.rooms:
            link = far.link
            if link is not None and not link.crowded and get_ident() == far.kernel.thread:
                seconds = ASK_SECONDS
                if timeout is not None:
                    check_seconds(far, timeout)
                    seconds = timeout
                id, reply = far.peer.request(far, message, seconds, link)
                far.sent += 1
                try:
                    return await reply  # type: ignore[no-any-return]  # of the type the message declares
                except asyncio.CancelledError:
                    far.peer.forsake(id, reply, cancel=cancel)
                    raise
        return await super().ask(message, timeout=timeout, cancel=cancel, on_restart=on_restart, wait=wait)
