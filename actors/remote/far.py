"""An address at another node: a cell without a life, whose messages go over a link.

`state` is `running` while the node is connected, `failed` while it is not (a router prefers others then), `stopped`
when the name leads nowhere there. Whoever sends is told at once, as in process: True when the message is on its way
and the receiver has room for it, by the credit it gave.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from understudy.actors.cell import Cell, Watcher
from understudy.actors.delivery import Entry, Envelope, message_of
from understudy.actors.errors import SpecError
from understudy.actors.lifecycle import GONE, Exit
from understudy.actors.messages import tag_of
from understudy.actors.refs import Refused, RefusedReason, check_seconds
from understudy.actors.remote.items import FIRST_CREDIT, Cancel, Closed, Open, Opened
from understudy.actors.remote.link import ENCODE, SMALL, Lane
from understudy.actors.telemetry import LetterReason

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.remote.link import Link
    from understudy.actors.remote.peer import Peer
    from understudy.actors.remote.sure import Outbox

_LETTERS: Final[Mapping[RefusedReason, LetterReason]] = {
    "full": "full",
    "dead": "stopped",
    "unknown": "unknown",
    "no-connection": "no-connection",
}
AGAIN_SECONDS: Final = 1.0
"""How long a name that led nowhere is not looked for again."""


def _none() -> Actor[Any]:
    raise SpecError("an actor of another node is not started here")


class FarCell(Cell):
    """The actor `name` of the node `peer`.

    `channel` is its number on the present link, 0 while there is none; of the messages `sent` on it, `allowed` may be.
    Those that were lent to its `lane` count as sent until it is settled.
    """

    __slots__ = (
        "allowed",
        "channel",
        "far",
        "lane",
        "link",
        "outbox",
        "peer",
        "retry",
        "rooms",
        "sent",
        "size",
        "tags",
        "wanted",
    )

    def __init__(self, peer: Peer, name: str) -> None:
        super().__init__(peer.kernel, name, _none)
        self.far: FarCell | None = self
        self.peer = peer
        self.channel = 0
        self.sent = self.allowed = 0
        self.size = 0
        self.retry = 0.0
        self.tags: frozenset[str] | None = None
        self.wanted: set[type] = set()
        self.link: Link | None = None
        self.lane = Lane()
        self.rooms: deque[asyncio.Future[bool]] = deque()
        self.outbox: Outbox | None = None
        self.state = "failed"
        self.set_state()

    def set_state(self) -> None:
        """Say whether messages can go there now."""
        self.state = "running" if self.peer.link is not None else "failed"
        self.exit = GONE if self.peer.link is not None else self.peer.exit

    @property
    def path(self) -> str:
        """The address, as "berlin/audit/inspector/2"."""
        return f"{self.peer.name}/{self.label}"

    @property
    def limit(self) -> int:
        """Messages that wait at most, there; 0 while it is not known."""
        return self.size

    @property
    def waiting(self) -> int:
        """Messages that are on their way, as far as it is known here."""
        return len(self.rooms)

    def takes(self) -> tuple[str, ...]:
        """Tags of the message types there is a handler for, sorted; none while they are not known."""
        return tuple(sorted(self.tags or ()))

    def watch(self, watcher: Cell | Watcher) -> None:
        """Note who is to be told of the end of the present incarnation, there."""
        first = not self.watchers
        super().watch(watcher)
        if first:
            self.peer.watch(self)

    def unwatch(self, watcher: Cell | Watcher) -> None:
        """Forget a watcher."""
        super().unwatch(watcher)
        if not self.watchers:
            self.peer.unwatch(self)

    # -- sending -----------------------------------------------------------------------------------------------

    def post(self, entry: Entry, *, quiet: bool) -> Literal[True] | Refused:
        """Send an entry: True or `Refused`. `quiet` leaves a refusal for `full` to the caller.

        Raises `UsageError` for a message that cannot be written.
        """
        reason = self.way(type(message_of(entry)))
        if reason is None:
            self._send(entry)
            return True
        if reason == "full" and quiet:
            return Refused("full", self.path)
        return self._refuse(entry, reason)

    def _refuse(self, entry: Entry, reason: RefusedReason) -> Refused:
        if reason == "full":
            self.peer.count_full()
        self.kernel.letter(self, entry, _LETTERS[reason])
        return Refused(reason, self.path)

    def way(self, kind: type, *, waiting: bool = True) -> RefusedReason | None:
        """Why a message cannot be sent now; None when it can. `waiting`: behind those who wait for credit."""
        self.sent -= self.lane.settle()
        link = self.peer.link
        if link is None:
            return "no-connection"
        if self.state == "stopped":
            if self.kernel.now() < self.retry:
                return "dead"
            self.set_state()
        if self.channel == 0:
            self.open(link)
        if self.tags is not None and kind not in self.wanted and not self._wants(kind):
            return "unknown"
        if self.sent >= self.allowed or (waiting and self.rooms) or link.crowded:
            return "full"
        return None

    def _wants(self, kind: type) -> bool:
        assert self.tags is not None  # noqa: S101  # asked only when they are known
        wanted = hasattr(kind, "__struct_config__") and tag_of(kind) in self.tags
        if wanted:
            self.wanted.add(kind)
        return wanted

    # Any: a message of any type
    def tell(self, message: Any) -> bool:
        """Send a message the short way. False: nothing was sent, and `way` tells whether it can be.

        Raises `UsageError` for a message that cannot be written.
        """
        if type(message) not in self.wanted:
            return False
        lane = self.lane
        if lane.left:
            buffer = lane.buffer
            mark = len(buffer)
            try:
                ENCODE(message, buffer, -1)
            except BaseException:
                del buffer[mark:]  # below, it is told why
            else:
                if len(buffer) - mark <= SMALL:
                    lane.left -= 1
                    return True
                del buffer[mark:]
        link = self.link
        if link is None or link.crowded or self.rooms:
            return False
        self.sent -= lane.settle()
        if self.sent >= self.allowed:
            return False
        link.tell(self.channel, message)
        self.sent += 1
        self.sent += link.lend(self.channel, lane, self.allowed - self.sent)
        return True

    def _send(self, entry: Entry) -> None:
        link = self.peer.link
        assert link is not None  # noqa: S101  # looked at by `_way`
        if isinstance(entry, Envelope) and entry.reply is not None:
            self.peer.ask(self, entry, link)
        else:
            link.tell(self.channel, message_of(entry))
        self.sent += 1

    async def post_when_room(self, entry: Entry, timeout: float) -> Literal[True] | Refused:
        """`post`, waiting for credit at most `timeout` seconds."""
        check_seconds(self, timeout)
        kind = type(message_of(entry))
        until = self.kernel.now() + timeout
        while (reason := self.way(kind)) == "full":
            if not await self._room(until):
                reason = "full" if self.peer.link is not None else "no-connection"
                break
        if reason is None:
            self._send(entry)
            return True
        if isinstance(entry, Envelope) and entry.reply is not None:
            return Refused(reason, self.path)
        return self._refuse(entry, reason)

    async def send_surely(self, message: Any, timeout: float) -> Literal[True] | Refused:
        """See `Ref.send`."""
        self.kernel.check_thread()
        return await self.peer.nodes.sure.send(self, message, timeout)

    async def _room(self, until: float) -> bool:
        """Wait in turn until there may be room; False when the time is over or the link is."""
        room: asyncio.Future[bool] = self.kernel.loop.create_future()
        self.rooms.append(room)

        def give_up() -> None:
            if not room.done():
                room.set_result(False)

        timer = self.kernel.timers.at(until, give_up)
        try:
            return await room
        finally:
            timer.cancel()
            self.sent -= self.lane.settle()
            if room in self.rooms:
                self.rooms.remove(room)
            elif room.cancelled() or self.sent < self.allowed:
                self.grant()

    def grant(self) -> None:
        """Send what is kept, and wake as many of those who wait as there is room for."""
        if self.outbox is not None:
            self.outbox.pump()
        self.sent -= self.lane.settle()
        free = self.allowed - self.sent
        while free > 0 and self.rooms:
            room = self.rooms.popleft()
            if not room.done():
                room.set_result(True)
                free -= 1

    def cancel(self, envelope: Envelope) -> None:
        """The asker was cancelled, and wants the handler there to end."""
        id = self.peer.id_of(envelope)
        if id and self.peer.link is not None:
            self.peer.link.control(Cancel(id))

    # -- the channel -------------------------------------------------------------------------------------------

    def open(self, link: Link) -> None:
        """Take a channel of the present link. The first messages may follow at once."""
        self.channel = self.peer.channel_for(self)
        self.link = link
        self.sent, self.allowed = 0, FIRST_CREDIT
        self.tags = None
        self.wanted.clear()
        link.control(Open(self.channel, str(self.label)))

    def opened(self, item: Opened) -> None:
        """The receiver says what it takes."""
        self.tags = frozenset(item.takes)
        self.wanted.clear()
        self.size = item.limit
        self.allowed = max(self.allowed, item.allowed)
        self.grant()

    def closed(self, item: Closed) -> None:
        """The name leads nowhere, for now: the next message looks again."""
        self._shut()
        self.state = "stopped"
        self.retry = self.kernel.now() + AGAIN_SECONDS
        self.exit = Exit("gone", item.detail or item.reason)
        if self.outbox is not None:
            self.outbox.give_up("dead")
        self._wake()

    def disconnect(self) -> None:
        """The link is lost."""
        self._shut()
        self.set_state()
        if self.outbox is not None:
            self.outbox.disconnected()
        self._wake()

    def _shut(self) -> None:
        self.link = None
        self.lane.settle()
        self.lane = Lane()
        self.channel = self.sent = self.allowed = 0
        self.tags = None
        self.wanted.clear()

    def _wake(self) -> None:
        """Let all who wait look again."""
        rooms, self.rooms = self.rooms, deque()
        for room in rooms:
            if not room.done():
                room.set_result(self.peer.link is not None)


class FarHop(Envelope, eq=False):
    """A request of a chain that was made at another node: `hop` names it, and the path of who asked."""

    hop: tuple[str, int, int, str] = ("", 0, 0, "")

    @property
    def where(self) -> str:
        """The path of who asked, with its node."""
        return f"{self.hop[0]}/{self.hop[3]}" if self.hop[3] else self.hop[0]
