"""Secrets: what a text may not say is replaced by a mark before anybody keeps it, and turned back for a tool only.

`Secret` is a type for fields of messages and parameters of tools; patterns find what is not typed. Both leave
`[secret:NAME:DIGEST]`, where DIGEST is keyed, so that equal secrets have equal marks and nobody can try guesses against
a journal. The values stay in the memory of the process, by run (or session), at most `VAULT` of them. What is promised
is in docs/secrets.md, and why it is so in docs/decisions.md.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from understudy.actors.errors import SpecError
from understudy.actors.telemetry import scrubbers

VAULT: Final = 10_000
"""Values that are kept for being turned back; beyond, the one that was used longest ago is forgotten."""
LEAST: Final = 8
"""Characters that a known secret must have to be looked for in other texts: shorter ones are words and numbers."""
LEAST_KEY: Final = 16
"""Bytes."""
MARK: Final = "[secret:"
_MARKS: Final = re.compile(r"\[secret:([A-Za-z0-9_.-]{1,40}):([0-9a-f]{16})\]")
_WHOLE: Final = re.compile(r"(\[secret:[A-Za-z0-9_.-]{1,40}(?::[0-9a-f]{16})?\])")
_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_encoder: Final = msgspec.json.Encoder()


class Secret(Struct, frozen=True):
    """A value that is never journalled, logged or shown to a model: only its mark is. In JSON `{"secret": "..."}`.

    For fields of messages and parameters and results of tools. `secret` is the value, for the tool that was called with
    it; everywhere else it is the mark.
    """

    secret: str

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


class Pattern(Struct, frozen=True):
    """What is to be found in texts. `source`: its group 1 is the secret, or all of it without groups.

    In every text that matches there are the character `gate` and one of `literals`, so that others are passed over
    quickly; without literals it is always looked for. One character is found at the speed of memory, three are not.
    """

    name: str
    source: str | re.Pattern[str]
    gate: str = ""
    literals: tuple[str, ...] = ()

    @property
    def expression(self) -> re.Pattern[str]:
        """Compiled when it is first needed, which most programs never do."""
        return _compiled(self.source) if isinstance(self.source, str) else self.source

    def may_match(self, text: str) -> bool:
        """Whether it is worth looking."""
        return not self.literals or (self.gate in text and any(literal in text for literal in self.literals))


@cache
def _compiled(source: str) -> re.Pattern[str]:
    return re.compile(source, re.DOTALL)


def _pattern(name: str, source: str, gate: str, *literals: str) -> Pattern:
    return Pattern(name, source, gate, literals)


PATTERNS: Final = (
    _pattern(
        "private-key",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
        "-",
        "PRIVATE KEY",
    ),
    _pattern("api-key", r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}", "-", "sk-"),
    _pattern("stripe-key", r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{16,}", "_", "k_live_", "k_test_"),
    _pattern(
        "github-token",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        "_",
        *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    _pattern("slack-token", r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}", "-", "xox"),
    _pattern("aws-key", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", "I", "AKIA", "ASIA"),
    _pattern("google-key", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}", "I", "AIza"),
    _pattern("jwt", r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "J", "eyJ"),
    _pattern("bearer", r"(?i:\bbearer)\s+([A-Za-z0-9._~+/=-]{16,})", "", "earer "),
    _pattern("basic", r"(?i:authorization\W{1,5}basic)\s+([A-Za-z0-9+/=]{8,})", "", "uthorization"),
    _pattern("url-password", r"://[^\s/:@\"'\\\[]*:([^\s/@\"'\\]+)@", "@", "://"),
)
"""What is found by default: keys of well-known form, tokens in headers, passwords in URLs, private keys."""

Resolve = Callable[[str, str], "str | Awaitable[str | None] | None"]


class Redact:
    """What a system redacts beside `Secret` fields, which it always does.

    `patterns`: further ones, by name; a group 1 is the secret, else the whole match. `builtin`: `PATTERNS`, too.
    `resolve(name, mark)`: gives the value of a mark that this process does not know, as after a crash, or None; it may
    be a coroutine function. What it gives is believed only if it has the digest of the mark. `key`: for the digests, at
    least 16 bytes; default: the file `JOURNAL-key` beside a journal file, which is made with mode 0600, else a
    new one for each system. Raises `SpecError` for a pattern that is none, or that matches the empty text.
    """

    def __init__(
        self,
        patterns: Mapping[str, str | re.Pattern[str]] | None = None,
        *,
        builtin: bool = True,
        resolve: Resolve | None = None,
        key: bytes | None = None,
    ) -> None:
        if key is not None and len(key) < LEAST_KEY:
            raise SpecError(f"Redact: key has {len(key)} bytes; at least 16")
        self.resolve = resolve
        self.key = key
        self.patterns = (*(PATTERNS if builtin else ()), *(_own(*each) for each in (patterns or {}).items()))


def _own(name: str, expression: str | re.Pattern[str]) -> Pattern:
    if not name or _NAME.search(name) or len(name) > 40:
        raise SpecError(f"Redact: pattern name {name!r}; 1 to 40 letters, digits, '_', '.', '-'")
    try:
        made = re.compile(expression)
        empty = made.search("")
    except (re.error, TypeError) as error:
        raise SpecError(f"Redact: pattern {name!r}: {error}") from error
    if empty is not None or made.groups > 1:
        what = "matches the empty text" if empty is not None else "has more than one group"
        raise SpecError(f"Redact: pattern {name!r} {what}")
    return Pattern(name, made)


class Redactor:
    """Redacts for one system, and remembers what it took away. `key` is called when the first mark is made."""

    def __init__(self, options: Redact | None = None, key: Callable[[], bytes] | None = None) -> None:
        self._options = options or Redact(builtin=False)
        self._patterns = self._options.patterns
        gates = dict.fromkeys(pattern.gate for pattern in self._patterns if pattern.literals)
        self._hints = [
            (gate, [literal for each in self._patterns if each.gate == gate for literal in each.literals])
            for gate in gates
        ]
        self._always = any(not pattern.literals for pattern in self._patterns)
        self._key_of = key or (lambda: secrets.token_bytes(32))
        self._key = self._options.key
        self._vault: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._known: dict[str, dict[str, str]] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look for: no pattern, and no secret that is known."""
        return not self._patterns and not self._known

    # -- texts ---------------------------------------------------------------------------------------------

    def text(self, scope: str, text: str) -> str:
        """A text without what the patterns find and without the secrets that `scope` (a run or session) knows."""
        if self._hinted(text):
            for pattern in self._patterns:
                if pattern.may_match(text):
                    text = self._without(pattern, text, lambda name, value: self.mark(scope, name, value))
        known = self._known.get(scope)
        if known is not None:
            for mark, value in known.items():
                if len(value) >= LEAST and value in text:
                    text = _outside(text, partial(_put, value, mark))
        return text

    def json(self, scope: str, text: str) -> str:
        """The same for a text that is JSON: it stays JSON. What is none is redacted as it is."""
        if not self._suspect(scope, text):
            return text
        try:
            value = msgspec.json.decode(text)
            clean = self.value(scope, value)
            return text if clean == value else _encoder.encode(clean).decode()
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            return self._json_slowly(scope, text)

    def _json_slowly(self, scope: str, text: str) -> str:
        """Numbers that msgspec does not take; or no JSON at all."""
        try:
            return json.dumps(self.value(scope, json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.text(scope, text)

    def _suspect(self, scope: str, text: str) -> bool:
        """Whether a JSON text must be looked into: escapes may hide anything."""
        if "\\" in text and ("\\u" in text or "\\/" in text):
            return True
        if self._hinted(text):
            return True
        known = self._known.get(scope)
        return known is not None and any(
            len(value) >= LEAST and (value in text or _escaped(value) in text) for value in known.values()
        )

    def _hinted(self, text: str) -> bool:
        """Whether any pattern may match: nearly all texts have nothing."""
        for gate, literals in self._hints:
            if gate in text:
                for literal in literals:
                    if literal in text:
                        return True
        return self._always

    # Any JSON value.
    def value(self, scope: str, value: Any) -> Any:
        """A JSON value, each of its texts and keys redacted."""
        if isinstance(value, str):
            return self.text(scope, value)
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
            return {self.text(scope, key): self.value(scope, item) for key, item in items}
        if isinstance(value, list):
            return [self.value(scope, item) for item in value]
        return value

    def plain(self, text: str) -> str:
        """A text of no run, for logs and reports: without what the patterns find, and without any secret known."""
        for pattern in self._patterns:
            if pattern.may_match(text):
                text = self._without(pattern, text, lambda name, value: f"{MARK}{name}]")
        for (_, mark), value in tuple(self._vault.items()):
            if len(value) >= LEAST and value in text:
                text = _outside(text, partial(_put, value, mark))
        return text

    def _without(self, pattern: Pattern, text: str, mark: Callable[[str, str], str]) -> str:
        def swap(found: re.Match[str]) -> str:
            group, whole = found.re.groups, found.group(0)
            start, end = found.start(group) - found.start(0), found.end(group) - found.start(0)
            return f"{whole[:start]}{mark(pattern.name, found.group(group))}{whole[end:]}"

        return _outside(text, lambda part: pattern.expression.sub(swap, part))

    # -- typed secrets -------------------------------------------------------------------------------------

    # Messages, arguments and results are whatever their authors made them of.
    def sealed(self, scope: str, value: Any, name: str = "secret") -> Any:
        """The same value with each `Secret` in it holding its mark; the very same if there is none."""
        if isinstance(value, Secret):
            found = _MARKS.fullmatch(value.secret)
            return value if found else Secret(self.mark(scope, name, value.secret))
        if isinstance(value, Struct):
            changed = {
                field: new
                for field in value.__struct_fields__
                if (new := self.sealed(scope, old := getattr(value, field), field)) is not old
            }
            return msgspec.structs.replace(value, **changed) if changed else value
        if isinstance(value, Mapping):
            entries = value
            made = {key: self.sealed(scope, item, str(key)) for key, item in entries.items()}
            return made if any(made[key] is not entries[key] for key in made) else value
        if isinstance(value, list | tuple | set | frozenset):
            items = list(cast("Sequence[Any]", value))
            new = [self.sealed(scope, item, name) for item in items]
            return type(value)(new) if any(a is not b for a, b in zip(new, items, strict=True)) else value
        return value

    # -- marks ---------------------------------------------------------------------------------------------

    def mark(self, scope: str, name: str, value: str) -> str:
        """The mark of a value, which is remembered for `scope`."""
        name = _NAME.sub("_", name)[:40] or "secret"
        mark = f"{MARK}{name}:{self._digest(value)}]"
        self._vault[scope, mark] = value
        self._vault.move_to_end((scope, mark))
        self._known.setdefault(scope, {})[mark] = value
        while len(self._vault) > VAULT:
            (old, forgotten), _ = self._vault.popitem(last=False)
            self._drop(old, forgotten)
        return mark

    def _drop(self, scope: str, mark: str) -> None:
        known = self._known.get(scope)
        if known is not None:
            known.pop(mark, None)
            if not known:
                del self._known[scope]

    def forget(self, scope: str) -> None:
        """Forget the secrets of a run that has ended."""
        for mark in self._known.pop(scope, _NONE):
            self._vault.pop((scope, mark), None)

    def _digest(self, value: str) -> str:
        if self._key is None:
            self._key = self._key_of()
        return hmac.new(self._key, value.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16]

    async def live(self, scope: str, value: Any) -> tuple[Any, tuple[str, ...]]:
        """A value with every mark in its texts turned back, and the marks that nobody knows the value of."""
        names = dict.fromkeys(_marks_in(value))
        found: dict[str, str] = {}
        for mark in names:
            known = self._vault.get((scope, mark))
            if known is None:
                known = await self._resolved(scope, mark)
            if known is not None:
                found[mark] = known
        missing = tuple(mark for mark in names if mark not in found)
        return (value if missing else _turned(value, found)), missing

    async def _resolved(self, scope: str, mark: str) -> str | None:
        parts = _MARKS.fullmatch(mark)
        if self._options.resolve is None or parts is None:
            return None
        value = self._options.resolve(parts.group(1), mark)
        if inspect.isawaitable(value):
            value = await value
        if not isinstance(value, str) or not hmac.compare_digest(self._digest(value), parts.group(2)):
            return None
        self.mark(scope, parts.group(1), value)  # from now on known, so that results do not say it
        return value


_NONE: Final[dict[str, str]] = {}


def key_beside(journal: str, suffix: str = "-key") -> bytes:
    """The 32 bytes in the file beside a journal, which is made with mode 0600 when it is missing. Raises `OSError`.

    The file has its name only when it is whole, so whoever reads it meanwhile, or after a kill, finds no half of it.
    """
    path = f"{journal}{suffix}"
    if not os.path.lexists(path):
        _make_key(path)
    with open(path, "rb") as kept:
        key = kept.read(1024)
    if len(key) < LEAST_KEY:
        raise OSError(f"{path}: {len(key)} bytes are no key; restore the file, or remove it")
    return key


def _make_key(path: str) -> None:
    made = f"{path}.{secrets.token_hex(8)}"
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as new:
            new.write(secrets.token_bytes(32))
            new.flush()
            os.fsync(file)
        os.link(made, path)  # exclusive: where two make one, both read that of the first
    except FileExistsError:
        pass
    except PermissionError:  # link(2): the file system has no links
        os.replace(made, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(made)


def _put(value: str, mark: str, part: str) -> str:
    return part.replace(value, mark)


def _outside(text: str, change: Callable[[str], str]) -> str:
    """Change a text, but not the marks in it."""
    if MARK not in text:
        return change(text)
    parts = _WHOLE.split(text)  # every other one is a mark
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def _escaped(value: str) -> str:
    return _encoder.encode(value.encode("utf-8", "replace").decode())[1:-1].decode()


# Whatever JSON or bound arguments hold.
def _marks_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [found.group(0) for found in _MARKS.finditer(value)] if MARK in value else []
    if isinstance(value, Struct):
        return [mark for field in value.__struct_fields__ for mark in _marks_in(getattr(value, field))]
    if isinstance(value, Mapping):
        return [mark for pair in value.items() for each in pair for mark in _marks_in(each)]
    if isinstance(value, list | tuple | set | frozenset):
        return [mark for item in cast("Sequence[Any]", value) for mark in _marks_in(item)]
    return []


def _turned(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _MARKS.sub(lambda mark: found.get(mark.group(0), mark.group(0)), value) if MARK in value else value
    if isinstance(value, Struct):
        changed = {
            field: new
            for field in value.__struct_fields__
            if (new := _turned(old := getattr(value, field), found)) is not old
        }
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        entries = value
        return {_turned(key, found): _turned(item, found) for key, item in entries.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_turned(item, found) for item in cast("Sequence[Any]", value))
    return value


scrubbers.append(Redactor(Redact()).plain)
