"""Certificates that are made on the spot, and two ends of a TLS connection over loopback."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import trustme

P = ParamSpec("P")


class Files(NamedTuple):
    ca: Path
    cert: Path
    key: Path


def made(folder: Path, name: str, ca: trustme.CA | None = None, host: str = "127.0.0.1") -> Files:
    """A certificate for a host, of a CA of its own or of a given one, as PEM files."""
    ca = ca or trustme.CA()
    issued = ca.issue_cert(host, key_type=trustme.KeyType.ECDSA)
    files = Files(*(folder / f"{name}-{part}.pem" for part in Files._fields))
    ca.cert_pem.write_to_path(str(files.ca))
    files.key.write_bytes(issued.private_key_pem.bytes())
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return files


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test with a loop of its own: in debug mode asyncio reports a refused connection to the loop, when it likes."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def over_tls(server: ssl.SSLContext, client: ssl.SSLContext, listens: Talk, dials: Talk) -> None:
    """Let both talk over one connection. Raises what the dialing side does; the other ends with it."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await listens(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the dialer says why
        finally:
            await closed(writer)
            if not done.done():
                done.set_result(None)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    async with listening, asyncio.timeout(60):
        host, port = listening.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port, ssl=client)
        try:
            await dials(reader, writer)
        finally:
            await closed(writer)
        await done


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        pass
