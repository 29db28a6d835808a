"""Large texts of events, stored once: where they stood in the payload, and the table that holds them by their digest.

A payload is JSON. Each text in it of `LARGE` bytes or more is taken out and put into `contents` under the digest of its
bytes; the row keeps the rest, and in `refs` where each text belongs. Two events that say the same thing (a result and
the output made of it, a prompt and the window that was written down) share one body. Length and CRC of a row are those
of the whole payload, so what is read back is verified as if it had never been apart.

It works on bytes, and takes any payload apart and together again: what is no JSON is only cut at other places.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final

LARGE: Final = 1_024
"""Bytes of a text, as it is written in JSON, from which on it is stored once."""
DIGEST: Final = 32
"""Bytes of a digest, BLAKE2b."""
TABLE: Final = "CREATE TABLE contents (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body BLOB NOT NULL)"
# A body that has been damaged meanwhile is put right by the next event that says the same.
PUT: Final = (
    "INSERT INTO contents (digest, body) VALUES (?, ?)"
    " ON CONFLICT (digest) DO UPDATE SET body = excluded.body WHERE body IS NOT excluded.body"
)
USED: Final = "CREATE INDEX events_refs ON events (id) WHERE refs IS NOT NULL"
"""Finds the rows that refer to bodies, for pruning: few of many."""
_GET: Final = "SELECT body FROM contents WHERE digest = ?"
_REF: Final = Struct(f"<I{DIGEST}s")

Bodies = Callable[[bytes], bytes]
"""The body of a digest. Raises `LookupError` when there is none."""


def digest_of(body: bytes) -> bytes:
    """The name that a body is stored under."""
    return blake2b(body, digest_size=DIGEST).digest()


def apart(payload: bytes) -> tuple[bytes, bytes | None, list[tuple[bytes, bytes]]]:
    """What the row keeps, its `refs` (None for none), and the bodies taken out, each with its digest."""
    if len(payload) < LARGE + 2:
        return payload, None, []
    rest: list[bytes] = []
    refs: list[bytes] = []
    bodies: list[tuple[bytes, bytes]] = []
    done = kept = 0
    for begin, end in _large(payload):
        body = payload[begin:end]
        digest = digest_of(body)
        rest.append(payload[done:begin])
        kept += begin - done
        refs.append(_REF.pack(kept, digest))
        bodies.append((digest, body))
        done = end
    if not bodies:
        return payload, None, []
    rest.append(payload[done:])
    return b"".join(rest), b"".join(refs), bodies


def _large(payload: bytes) -> Iterator[tuple[int, int]]:
    """Where large texts begin and end, without their quotes."""
    # Escapes are blotted out, so that the quotes left over are those around texts: many times as fast as an expression.
    parts = payload.replace(b"\\\\", b"  ").replace(b'\\"', b"  ").split(b'"')
    if max(map(len, parts)) < LARGE:
        return
    begin = 0
    for number, part in enumerate(parts):
        if number % 2 and len(part) >= LARGE and number < len(parts) - 1:
            yield begin, begin + len(part)
        begin += len(part) + 1


def together(kept: bytes, refs: bytes | None, body_of: Bodies) -> bytes:
    """The whole payload. Raises `LookupError` for a body that is not there, `ValueError` for refs that are none."""
    if refs is None:
        return kept
    parts: list[bytes] = []
    done = 0
    for place, digest in parsed(refs):
        if not done <= place <= len(kept):
            raise ValueError("a reference to a text points outside of its event")
        parts += kept[done:place], body_of(digest)
        done = place
    return b"".join((*parts, kept[done:]))


def parsed(refs: object) -> list[tuple[int, bytes]]:
    """Places and digests of a row's `refs`. Raises `ValueError`."""
    if type(refs) is not bytes or not refs or len(refs) % _REF.size:
        raise ValueError("the references to its texts are damaged")
    return list(_REF.iter_unpack(refs))


def referred(db: sqlite3.Connection, run: str | None = None) -> set[bytes]:
    """The digests that rows of a stream, or of all, refer to. Raises `ValueError` for references that are none."""
    if run is None:
        rows = db.execute("SELECT refs FROM events INDEXED BY events_refs WHERE refs IS NOT NULL")
    else:
        rows = db.execute("SELECT refs FROM events WHERE run = ? AND refs IS NOT NULL", (run,))
    return {digest for (refs,) in rows for _, digest in parsed(refs)}


def stored(db: sqlite3.Connection) -> Bodies:
    """The bodies of the table `contents`, each read once."""
    known: dict[bytes, bytes] = {}

    def body_of(digest: bytes) -> bytes:
        body = known.get(digest)
        if body is None:
            found = db.execute(_GET, (digest,)).fetchone()
            if found is None or type(found[0]) is not bytes:
                raise LookupError(f"the text {digest.hex()[:8]} that it refers to is not there")
            body = known[digest] = found[0]
        return body

    return body_of
