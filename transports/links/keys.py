"""The secret that nodes share, and where it comes from. It is in no repr, log, error or pickle.

Looked for in this order: what is given; `UNDERSTUDY_SECRET`; the file that `UNDERSTUDY_SECRET_FILE` names; the file
`JOURNAL-link-key` beside a journal file, which a node that listens makes (mode 0600), so that nodes of the same user on
the same machine can read it. A file that group or others may read is refused. Line ends at the end of a secret do not
count, whichever way it comes: editors and `echo` add them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Final, NoReturn

from understudy.actors.errors import SpecError
from understudy.actors.redaction import LEAST_KEY, key_beside

VARIABLE: Final = "UNDERSTUDY_SECRET"
FILE_VARIABLE: Final = "UNDERSTUDY_SECRET_FILE"
SUFFIX: Final = "-link-key"
"""Of the key file beside the journal; that of the marks of redacted secrets is another one, `-key`."""
MOST: Final = 4_096
"""Bytes of a secret."""
SOURCES: Final = f"give secret=, set {VARIABLE} or {FILE_VARIABLE}, or keep the journal in a file"
_PURPOSE: Final = b"understudy link 1"


class LinkSecret:
    """A secret of 16 to 4,096 bytes, which only makes and checks codes. Raises `SpecError` for another length.

    Who dials is shown a code by nobody who does not know it, but who is dialled can try guesses against the one it is
    sent: let a machine draw the secret (`openssl rand -hex 32`). `origin` says where it came from, for messages.
    """

    __slots__ = ("_key", "origin")

    def __init__(self, value: bytes, origin: str = "secret=") -> None:
        value = value.rstrip(b"\r\n")
        if not LEAST_KEY <= len(value) <= MOST:
            raise SpecError(f"{origin}: a secret of {len(value)} bytes; {LEAST_KEY} to {MOST:,}")
        self._key = hmac.digest(value, _PURPOSE, hashlib.sha256)
        self.origin = origin

    def code(self, role: bytes, *parts: bytes) -> bytes:
        """HMAC-SHA256 over the role and the parts, each behind its length (4 bytes, big-endian)."""
        text = b"".join(len(part).to_bytes(4, "big") + part for part in (role, *parts))
        return hmac.digest(self._key, text, hashlib.sha256)

    def checks(self, code: bytes, role: bytes, *parts: bytes) -> bool:
        """Whether it is the code of these, in a time that does not depend on where they differ."""
        return hmac.compare_digest(code, self.code(role, *parts))

    def __repr__(self) -> str:
        return f"LinkSecret('***', origin={self.origin!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LinkSecret is not pickled or copied")


Given = LinkSecret | bytes | str | PathLike[str]
"""What `secret=` takes. A text is the secret itself; a file is a `Path`."""


def link_secret(
    given: Given | None = None,
    *,
    journal: str | PathLike[str] | None = None,
    make: bool = False,
    environ: Mapping[str, str] | None = None,
) -> LinkSecret | None:
    """The secret of this node, None when there is none anywhere.

    `journal`: the path of the journal file, None for one in memory. `make`: make the key file beside it when it is
    missing, as a node that listens does. `environ`: default the environment of the process. Raises `SpecError`, naming
    the place and never the value, for a secret that is too short, a variable that is empty, a file that cannot be
    read, is no regular file, or may be read or written by group or others.
    """
    if isinstance(given, LinkSecret):
        return given
    if given is not None:
        return _explicit(given)
    environ = os.environ if environ is None else environ
    if (value := environ.get(VARIABLE)) is not None:
        return LinkSecret(os.fsencode(value), VARIABLE)
    if (path := environ.get(FILE_VARIABLE)) is not None:
        return secret_of(path, FILE_VARIABLE)
    return None if journal is None else _beside(fspath(journal), make)


def secret_of(path: str | PathLike[str], origin: str = "secret=") -> LinkSecret:
    """The secret in a file. Raises `SpecError` as `link_secret` does."""
    where = f"{origin} {fspath(path)!r}"
    try:
        # Not blocking: to open a named pipe that nobody writes to would wait for ever.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _check_file(os.fstat(file), where)
            value = os.read(file, MOST + 3)
        finally:
            os.close(file)
    except SpecError:
        raise
    except OSError as error:
        raise SpecError(f"{where}: {error.strerror or error}") from error
    except ValueError as error:
        raise SpecError(f"{where}: a path does not have NUL characters") from error
    return LinkSecret(value, where)


def _check_file(found: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SpecError(f"{where} is not a regular file")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise SpecError(f"{where} has mode {mode:04o}: others may read or change it; chmod 600 it, or make a new one")
    if found.st_uid not in (os.geteuid(), 0):
        raise SpecError(f"{where} belongs to another user, {found.st_uid}")


def _explicit(given: bytes | str | PathLike[str]) -> LinkSecret:
    if isinstance(given, bytes):
        return LinkSecret(given)
    if isinstance(given, str):
        return LinkSecret(given.encode("utf-8", "surrogateescape"))
    if isinstance(given, PathLike):
        return secret_of(given)
    raise SpecError(f"secret= takes bytes, a text or a Path, not {type(given).__name__}")


def _beside(journal: str, make: bool) -> LinkSecret | None:
    path = f"{journal}{SUFFIX}"
    if make:
        try:
            key_beside(journal, SUFFIX)
        except OSError as error:
            raise SpecError(f"no secret for links: {error}") from error
    return secret_of(path, "the key file") if make or os.path.lexists(path) else None
