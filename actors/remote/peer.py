"""Another node, as this one knows it: the addresses there that are used here, requests that wait, what is watched.

A peer outlives its links. When one is lost, every request that waits fails with `ActorStopped` (`no-connection`: it may
have been served), every watcher gets its one notice, and nothing of it comes back with the next link.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from understudy.actors.delivery import Envelope, path_of
from understudy.actors.errors import (
    ActorStopped,
    AskError,
    AskTimeout,
    CallCycle,
    MailboxFull,
    NotHandled,
    ReplyLost,
    SpecError,
    UsageError,
)
from understudy.actors.lifecycle import Exit, ExitKind
from understudy.actors.messages import Down, reply_type
from understudy.actors.remote.far import FarCell, FarHop
from understudy.actors.remote.items import (
    LONGEST_NAME,
    Closed,
    Credit,
    Dropped,
    Ended,
    Fail,
    Find,
    Found,
    Opened,
    Unwatch,
    Watch,
)
from understudy.actors.remote.link import Hop, Link
from understudy.actors.telemetry import DeadLetter

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel
    from understudy.actors.remote.nodes import Nodes

ADDRESSES: Final = 10_000
"""Addresses of one peer that are used here at most."""
_SWEEP: Final = 1_000
"""Requests that wait from which on those that nobody waits for are looked for."""
NEVER: Final = Exit("no-connection", "never connected")
_KINDS: Final[dict[str, ExitKind]] = {
    kind: kind for kind in ("normal", "shutdown", "error", "loop", "escalate", "start", "killed", "gone")
}


class Peer:
    """See the module. `link` is the present one; `exit` says why there is none; `held`: see `Session.weigh`."""

    def __init__(self, nodes: Nodes, kernel: Kernel, name: str) -> None:
        self.nodes = nodes
        self.kernel = kernel
        self.name = name
        self.epoch = 0
        self.link: Link | None = None
        self.exit = NEVER
        self._cells: dict[str, FarCell] = {}
        self._channels: dict[int, FarCell] = {}
        self._asks: dict[int, tuple[FarCell, Envelope]] = {}
        self._watched: dict[int, FarCell] = {}
        self._watches: dict[FarCell, int] = {}
        self._finds: dict[int, asyncio.Future[Found]] = {}
        self._decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}
        self.full = 0
        self.held = 0
        self._sweep = _SWEEP

    @property
    def asking(self) -> int:
        """Requests that wait."""
        return len(self._asks)

    def cell(self, name: str) -> FarCell:
        """The address of the actor `name` there. Raises `SpecError` for a malformed name."""
        cell = self._cells.get(name)
        if cell is None:
            if not name or name.startswith("@") or not all(name.split("/")):
                raise SpecError(f"{self.name}/{name}: {name!r} is no name of an actor")
            if len(name) > LONGEST_NAME:
                raise SpecError(f"{self.name}/{name[:50]}…: a name of {len(name)} characters; {LONGEST_NAME} at most")
            if len(self._cells) >= ADDRESSES:
                raise UsageError(f"{self.name}/{name}: {ADDRESSES} actors of one node are addressed already")
            cell = self._cells[name] = FarCell(self, name)
        return cell

    def known(self, name: str) -> FarCell | None:
        """The address of the actor `name` there, if it is used here."""
        return self._cells.get(name)

    def channel_for(self, cell: FarCell) -> int:
        """A channel of the present link for this address."""
        channel = len(self._channels) + 1
        while channel in self._channels:
            channel += 1
        self._channels[channel] = cell
        return channel

    def check_writable(self, message: Any) -> None:
        """Raise `UsageError` for a message that could not be sent: one that is kept is written later."""
        try:
            msgspec.msgpack.encode(message)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(f"{type(message).__qualname__} cannot be sent to another node: {error}") from error

    def count_full(self) -> None:
        """A message was refused for want of credit."""
        self.full += 1

    # -- the link ----------------------------------------------------------------------------------------------

    def connect(self, link: Link) -> None:
        """There is a link."""
        self.link, self.epoch = link, link.epoch
        for cell in self._cells.values():
            cell.set_state()

    def disconnect(self, reason: str) -> None:
        """The link is lost. See the module."""
        self.link = None
        self.exit = exit = Exit("no-connection", f"node {self.name}: {reason}")
        self._channels.clear()
        for cell in list(self._cells.values()):
            cell.disconnect()
        asks, self._asks = self._asks, {}
        for cell, envelope in asks.values():
            envelope.fail(ActorStopped(cell.path, exit))
        watched, self._watched = self._watched, {}
        self._watches.clear()
        for cell in watched.values():
            self.kernel.tell_watchers(cell, Down(cell.path, 0, exit.kind, exit.detail, restarting=False))
        finds, self._finds = self._finds, {}
        for find in finds.values():
            if not find.done():
                find.set_result(Found(0, "", exit.detail))

    def uncrowded(self) -> None:
        """The link takes more."""
        for cell in list(self._channels.values()):
            cell.grant()

    # -- requests ----------------------------------------------------------------------------------------------

    def ask(self, cell: FarCell, envelope: Envelope, link: Link) -> None:
        """Send a request."""
        id = self.nodes.next_id()
        assert envelope.deadline is not None  # noqa: S101  # a request has one
        seconds = envelope.deadline - self.kernel.now()
        link.ask(cell.channel, id, seconds, envelope.message, self._hops(id, envelope) if envelope.chain else ())
        self._asks[id] = cell, envelope
        if len(self._asks) >= self._sweep:
            self._forget_done()

    def _forget_done(self) -> None:
        """Forget requests that nobody here waits for any more, and that were never answered."""
        for each in [each for each, (_, envelope) in self._asks.items() if _done(envelope)]:
            del self._asks[each]
        self._sweep = max(_SWEEP, 2 * len(self._asks))

    def _hops(self, id: int, envelope: Envelope) -> tuple[Hop, ...]:
        """The chain as it travels: what came from elsewhere, and this request for all that is ours."""
        foreign = tuple(each.hop for each in envelope.chain if isinstance(each, FarHop))
        return (*foreign, (self.nodes.name, self.nodes.epoch, id, path_of(envelope.sender)))

    def chain_of(self, id: int) -> tuple[Envelope, ...] | None:
        """The chain of a request of ours, which came back to us; None when it does not wait any more."""
        found = self._asks.get(id)
        return None if found is None else found[1].chain

    def id_of(self, envelope: Envelope) -> int:
        """The number of a request that waits, 0 for none."""
        return next((id for id, (_, waiting) in self._asks.items() if waiting is envelope), 0)

    def replied(self, replies: list[tuple[int, msgspec.Raw]]) -> None:
        """See `Hears`."""
        for id, raw in replies:
            found = self._asks.pop(id, None)
            if found is None:
                self.nodes.count(self, "unasked")
                continue
            cell, envelope = found
            try:
                value = self._decoder(type(envelope.message)).decode(raw)
            except Exception as error:  # also what a `__post_init__` raises
                envelope.fail(
                    ReplyLost(cell.path, f"its reply is not what {type(envelope.message).__name__} declares: {error}")
                )
                continue
            if not envelope.answer(value):
                self.kernel.telemetry.dead(DeadLetter(path_of(envelope.sender), cell.path, "late", value))

    def _decoder(self, message: type) -> msgspec.msgpack.Decoder[Any]:
        decoder = self._decoders.get(message)
        if decoder is None:
            decoder = self._decoders[message] = msgspec.msgpack.Decoder(reply_type(message))
        return decoder

    def failed(self, item: Fail) -> None:
        """A request failed there."""
        found = self._asks.pop(item.id, None)
        if found is None:
            self.nodes.count(self, "unasked")
        else:
            cell, envelope = found
            envelope.fail(_error(cell, envelope, item, self.name))

    # -- channels ----------------------------------------------------------------------------------------------

    def opened(self, item: Opened) -> None:
        """A channel leads somewhere."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            cell.opened(item)

    def credited(self, item: Credit) -> None:
        """More may be sent."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        elif item.allowed > cell.allowed:
            cell.allowed = item.allowed
            cell.grant()

    def closed(self, item: Closed) -> None:
        """A channel leads nowhere. Its requests fail one by one."""
        cell = self._channels.pop(item.channel, None)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            cell.closed(item)

    def dropped(self, item: Dropped) -> None:
        """Messages that were sent were not taken."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            self.nodes.note(self, "dropped", f"{cell.path}: {item.count} messages were not taken: {item.reason}")

    # -- watching ----------------------------------------------------------------------------------------------

    def watch(self, cell: FarCell) -> None:
        """Somebody here watches. Without a link nobody comes here: see `watching`."""
        assert self.link is not None  # noqa: S101  # as above
        id = self.nodes.next_id()
        self._watched[id] = cell
        self._watches[cell] = id
        self.link.control(Watch(id, cell.label))

    def unwatch(self, cell: FarCell) -> None:
        """Nobody here does any more."""
        id = self._watches.pop(cell, 0)
        if self._watched.pop(id, None) is not None and self.link is not None:
            self.link.control(Unwatch(id))

    def ended(self, item: Ended) -> None:
        """The notice of a watch."""
        cell = self._watched.pop(item.id, None)
        if cell is None:
            self.nodes.count(self, "unasked")
        else:
            self._watches.pop(cell, None)
            kind = _KINDS.get(item.kind, "error")
            self.kernel.tell_watchers(cell, Down(cell.path, item.incarnation, kind, item.detail, item.restarting))

    # -- names -------------------------------------------------------------------------------------------------

    async def find(self, name: str, seconds: float) -> Found:
        """Ask for the path of a name. Raises `TimeoutError`."""
        if self.link is None:
            return Found(0, "", self.exit.detail)
        id = self.nodes.next_id()
        found: asyncio.Future[Found] = self.kernel.loop.create_future()
        self._finds[id] = found
        self.link.control(Find(id, name))
        try:
            async with asyncio.timeout(seconds):
                return await found
        finally:
            self._finds.pop(id, None)

    def found(self, item: Found) -> None:
        """The answer to `find`."""
        future = self._finds.pop(item.id, None)
        if future is None:
            self.nodes.count(self, "unasked")
        elif not future.done():
            future.set_result(item)


def _done(envelope: Envelope) -> bool:
    return envelope.reply is None or envelope.reply.done()


def _error(cell: FarCell, envelope: Envelope, item: Fail, node: str) -> AskError:
    """The error of a failed request, as it would be in process; paths are those of here."""
    path = cell.path
    if item.kind == "stopped":
        return ActorStopped(path, Exit(_KINDS.get(item.exit, "error"), item.detail))
    if item.kind == "unknown":
        return NotHandled(path, type(envelope.message), item.names)
    if item.kind == "full":
        return MailboxFull(path, item.limit)
    if item.kind == "expired":
        return AskTimeout(path, 0.0)
    if item.kind == "cycle":
        return CallCycle(path, item.names)
    return ReplyLost(path, f"node {node}: {item.detail}")
