"""A small HTTP/1.1 server for tests and the demo: loopback only, every size and wait limited.

It parses with h11, answers one request at a time per connection, keeps connections alive, and can misbehave on
request (`HttpReply.missing`, `HttpReply.drop`). It is no web server: no TLS, no streaming, no routing.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import h11
import msgspec
from anyio.abc import ByteStream, SocketAttribute
from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.transports.loopback import is_loopback

_CHUNK = 65_536
_LINGER_SECONDS = 1.0
_PIECES = 8

_log = logging.getLogger("understudy.testing")


class HttpRequest(Struct, frozen=True):
    """One whole request. `path` is without the query."""

    method: str
    path: str
    body: bytes


class HttpReply(Struct, frozen=True):
    """One answer.

    `missing` bytes are promised in Content-Length, never sent, and the connection is closed. With `drop` nothing
    at all is sent before it is closed. The body takes `seconds`, in pieces.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    missing: int = 0
    drop: bool = False
    seconds: float = 0.0


class HttpLimits(Struct, frozen=True):
    """Bounds of a server: bytes, seconds, and connections at once (one more is answered 503)."""

    connections: int = 256
    head_bytes: int = 16 * 1024
    body_bytes: int = 8 * 1024 * 1024
    head_seconds: float = 15.0
    body_seconds: float = 15.0
    write_seconds: float = 15.0


Handler = Callable[[HttpRequest], Awaitable[HttpReply]]


def problem(status: int, text: str, *, kind: str = "invalid_request_error") -> HttpReply:
    """An error answer in the shape that chat clients know."""
    return HttpReply(status, msgspec.json.encode({"error": {"message": text, "type": kind, "code": None}}))


@asynccontextmanager
async def serving(
    handler: Handler, *, host: str = "127.0.0.1", port: int = 0, limits: HttpLimits | None = None
) -> AsyncGenerator[str]:
    """Serve until the block is left; yields the address, like `http://127.0.0.1:4321`.

    `port` 0 takes a free one. Open connections are dropped at the end. Raises `UsageError` when `host` is not on
    loopback or `port` is not a port, OSError when it is taken.
    """
    address = _address(host, port)
    listener = await anyio.create_tcp_listener(local_host=address, local_port=port)
    bound = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
    door = _Door(handler, limits or HttpLimits())
    failure: Exception | None = None
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, door.enter)
        try:
            yield f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _address(host: str, port: int) -> str:
    if not is_loopback(host):
        raise UsageError(f"host {host!r} is not on loopback; this server takes only 127.0.0.1, ::1 and localhost")
    if not 0 <= port <= 65_535:
        raise UsageError(f"port must be 0 to 65535, not {port}")
    # One family only: with port 0 the two of `localhost` would get different ports.
    return "127.0.0.1" if host == "localhost" else host.strip("[]")


class _Door:
    """Counts the connections and keeps the failure of one away from the others."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        self._handler = handler
        self._limits = limits
        self._inside = 0

    async def enter(self, stream: ByteStream) -> None:
        self._inside += 1
        try:
            async with stream:
                connection = _Connection(stream, self._handler, self._limits)
                if self._inside > self._limits.connections:
                    await connection.refuse(503, f"more than {self._limits.connections} connections")
                else:
                    await connection.run()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # The client left; there is nobody to tell.
        except Exception:
            _log.exception("a connection of the testing HTTP server failed")
        finally:
            self._inside -= 1


class _Refused(Exception):
    """The request cannot be served; answer with this and close."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Connection:
    def __init__(self, stream: ByteStream, handler: Handler, limits: HttpLimits) -> None:
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._begun = False

    async def run(self) -> None:
        """Serve requests until either side closes."""
        try:
            while await self._serve_one():
                self._http.start_next_cycle()
        except _Refused as refused:
            await self.refuse(refused.status, str(refused))

    async def refuse(self, status: int, text: str) -> None:
        """Answer with an error, then close so that the answer survives a client that is still sending."""
        await self._write(problem(status, text), close=True)
        await self._linger()

    async def _serve_one(self) -> bool:
        """True when the connection can take another request."""
        request = await self._read()
        if request is None:
            return False
        reply = await self._answer(request)
        if reply is None or reply.drop:
            return False
        await self._write(reply, bare=request.method == "HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _read(self) -> HttpRequest | None:
        """The next request; None when the client closed, or stayed silent too long, between two of them."""
        self._begun = bool(self._http.trailing_data[0])
        try:
            with anyio.fail_after(self._limits.head_seconds):
                head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            with anyio.fail_after(self._limits.body_seconds):
                body = await self._body(head)
        except TimeoutError:
            if not self._begun:
                return None
            raise _Refused(408, "the request did not arrive in time") from None
        except h11.RemoteProtocolError as error:
            raise _Refused(error.error_status_hint, str(error)) from error
        path = head.target.decode("ascii", "replace").partition("?")[0]
        return HttpRequest(head.method.decode("ascii", "replace"), path, body)

    async def _body(self, head: h11.Request) -> bytes:
        limit, body = self._limits.body_bytes, bytearray()
        promised = next((value for name, value in head.headers if name == b"content-length"), b"0")
        while int(promised) <= limit and len(body) <= limit:
            event = await self._event()
            if not isinstance(event, h11.Data):
                return bytes(body)
            body += event.data
        raise _Refused(413, f"the body is larger than {limit} bytes")

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._receive())
        return event

    async def _receive(self) -> bytes:
        try:
            data = await self._stream.receive(_CHUNK)
        except anyio.EndOfStream:
            return b""
        self._begun = True
        return data

    async def _answer(self, request: HttpRequest) -> HttpReply | None:
        """The handler's answer; None when the client left before it was ready."""
        reply: HttpReply | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            reply = await self._handle(request)
            group.cancel_scope.cancel()
        return reply

    async def _handle(self, request: HttpRequest) -> HttpReply:
        try:
            return await self._handler(request)
        except Exception as error:
            _log.error("%s %s failed:\n%s", request.method, request.path, traceback.format_exc())
            return problem(500, f"{type(error).__name__}: {error}", kind="server_error")

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """End a slow answer when its client is gone. The start of a pipelined request is kept for later."""
        try:
            data = await self._stream.receive(_CHUNK)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            scope.cancel()
        else:
            self._http.receive_data(data)

    async def _write(self, reply: HttpReply, *, close: bool = False, bare: bool = False) -> None:
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(reply.body) + reply.missing)),
            *reply.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        with anyio.move_on_after(self._limits.write_seconds + reply.seconds):
            head, body = h11.Response(status_code=reply.status, headers=headers), b"" if bare else reply.body
            if reply.seconds:
                await self._send(head)
                body = await self._dribble(body, reply.seconds)
                await self._send(h11.Data(data=body))
            else:
                await self._send(head, h11.Data(data=body))
            if not reply.missing:
                await self._send(h11.EndOfMessage())

    async def _dribble(self, body: bytes, seconds: float) -> bytes:
        """Send all but the last piece; what is left."""
        size = max(1, len(body) // _PIECES)
        pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        for piece in pieces[:-1]:
            await self._send(h11.Data(data=piece))
            await anyio.sleep(seconds / max(1, len(pieces) - 1))
        return pieces[-1]

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            await self._stream.send(data)

    async def _linger(self) -> None:
        """Read on for a moment: closing with unread bytes would reset the connection and lose the answer."""
        with anyio.move_on_after(_LINGER_SECONDS):
            await self._stream.send_eof()
            for _ in range(2 * self._limits.body_bytes // _CHUNK + 1):
                try:
                    await self._stream.receive(_CHUNK)
                except anyio.EndOfStream:
                    return
