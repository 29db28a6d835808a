"""Versions and specifiers as PEP 440 defines them: parse, normalise, compare, match.

The demo may use no more than the core dependencies, and `packaging` is not one of them. This is the part of it
an audit needs; the tests hold it against `packaging` itself. Pre-releases always take part: the question here is
whether an installed version satisfies a requirement, not which version to choose.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_VERSION = r"""
    v?(?:(?P<epoch>[0-9]+)!)?
    (?P<release>[0-9]+(?:\.[0-9]+)*)
    (?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_n>[0-9]*))?
    (?P<post>-(?P<post_n1>[0-9]+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_n2>[0-9]*))?
    (?P<dev>[-_.]?dev[-_.]?(?P<dev_n>[0-9]*))?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?
"""
_VERSION_RE = re.compile(_VERSION, re.VERBOSE | re.IGNORECASE | re.ASCII)
_CLAUSE_RE = re.compile(r"(?P<operator>===|==|~=|!=|<=|>=|<|>)\s*(?P<version>\S+)")
_WILDCARD_RE = re.compile(r"v?(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*\.\*", re.IGNORECASE | re.ASCII)
_PRE = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_PRE_RANK = {"a": 0, "b": 1, "rc": 2}

_Pair = tuple[int, int]
_Key = tuple[int, tuple[int, ...], _Pair, _Pair, _Pair, tuple[tuple[int, str], ...]]


class InvalidVersion(ValueError):
    """The text is not a version by PEP 440. The message quotes it."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a version: {text!r}")


class InvalidSpecifier(ValueError):
    """The text is not a comma-separated list of PEP 440 clauses. The message quotes the bad clause."""

    def __init__(self, clause: str) -> None:
        super().__init__(f"not a version specifier: {clause!r}")


class Version(NamedTuple):
    """A parsed version. Compare by `key()`: the fields alone do not order as PEP 440 does."""

    epoch: int
    release: tuple[int, ...]
    pre: tuple[str, int] | None
    post: int | None
    dev: int | None
    local: tuple[int | str, ...]

    def key(self) -> _Key:
        """The value to order by: 1.0.dev1 < 1.0a1 < 1.0 < 1.0+local < 1.0.post1, and 1.0 equals 1.0.0."""
        if self.pre is not None:
            pre = (_PRE_RANK[self.pre[0]], self.pre[1])
        else:
            pre = (-1, 0) if self.post is None and self.dev is not None else (3, 0)
        post = (0, 0) if self.post is None else (1, self.post)
        dev = (1, 0) if self.dev is None else (0, self.dev)
        local = tuple((part, "") if isinstance(part, int) else (-1, part) for part in self.local)
        return self.epoch, _trim(self.release), pre, post, dev, local

    def public(self) -> Version:
        """The same version without its local part."""
        return self._replace(local=())

    def is_prerelease(self) -> bool:
        """Whether it is a pre-release or a development release."""
        return self.pre is not None or self.dev is not None

    def __str__(self) -> str:
        text = f"{self.epoch}!" if self.epoch else ""
        text += ".".join(map(str, self.release))
        text += "".join(map(str, self.pre or ()))
        text += "" if self.post is None else f".post{self.post}"
        text += "" if self.dev is None else f".dev{self.dev}"
        return text + ("+" + ".".join(map(str, self.local)) if self.local else "")


def parse(text: str) -> Version:
    """The version that `text` spells, in any of the spellings PEP 440 allows. Raises `InvalidVersion`."""
    match = _VERSION_RE.fullmatch(text.strip())
    if match is None:
        raise InvalidVersion(text)
    part = match.groupdict()
    try:
        return Version(
            epoch=int(part["epoch"] or 0),
            release=tuple(map(int, part["release"].split("."))),
            pre=_pre(part["pre"], part["pre_n"]),
            post=int(part["post_n1"] or part["post_n2"] or 0) if part["post"] else None,
            dev=int(part["dev_n"] or 0) if part["dev"] else None,
            local=_local(part["local"]),
        )
    except ValueError:  # a number of more digits than Python converts
        raise InvalidVersion(text) from None


def normal(text: str) -> str | None:
    """The normal spelling of a version (`v1.0-RC2` is `1.0rc2`), or None when `text` is not a version."""
    try:
        return str(parse(text))
    except InvalidVersion:
        return None


def contains(specifier: str, version: str) -> bool:
    """Whether `version` satisfies every clause of `specifier`; an empty specifier is satisfied by all.

    A version that is not PEP 440 satisfies only `===` with the same text. Raises `InvalidSpecifier`.
    """
    clauses = [_clause(text) for text in _split(specifier)]
    try:
        candidate = parse(version)
    except InvalidVersion:
        return all(operator == "===" and _same_text(wanted, version) for operator, wanted in clauses)
    return all(_matches(operator, wanted, candidate, version) for operator, wanted in clauses)


def check_specifier(specifier: str) -> None:
    """Raises `InvalidSpecifier` when `specifier` is not a comma-separated list of PEP 440 clauses."""
    for text in _split(specifier):
        _clause(text)


def _trim(release: tuple[int, ...]) -> tuple[int, ...]:
    end = len(release)
    while end > 1 and release[end - 1] == 0:
        end -= 1
    return release[:end]


def _pre(letter: str | None, number: str | None) -> tuple[str, int] | None:
    if not letter:
        return None
    return _PRE.get(letter.lower(), letter.lower()), int(number or 0)


def _local(text: str | None) -> tuple[int | str, ...]:
    parts = re.split(r"[-_.]", text.lower()) if text else []
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _split(specifier: str) -> list[str]:
    return [clause for text in specifier.split(",") if (clause := text.strip())]


def _clause(text: str) -> tuple[str, str]:
    match = _CLAUSE_RE.fullmatch(text)
    if match is None:
        raise InvalidSpecifier(text)
    operator, version = match["operator"], match["version"]
    if not _allowed(operator, version):
        raise InvalidSpecifier(text)
    return operator, version


def _allowed(operator: str, version: str) -> bool:
    """Wildcards and local versions only with == and !=; ~= needs two release numbers; === takes any text."""
    if operator == "===":
        return ";" not in version and ")" not in version
    if operator in ("==", "!=") and _WILDCARD_RE.fullmatch(version):
        return True
    try:
        parsed = parse(version)
    except InvalidVersion:
        return False
    if parsed.local and operator not in ("==", "!="):
        return False
    return operator != "~=" or len(parsed.release) > 1


def _matches(operator: str, wanted: str, candidate: Version, raw: str) -> bool:
    if operator == "===":
        return _same_text(wanted, raw)
    if wanted.endswith(".*"):
        return _has_prefix(candidate, parse(wanted.removesuffix(".*"))) == (operator == "==")
    bound = parse(wanted)
    if operator in ("==", "!="):
        found = candidate if bound.local else candidate.public()
        return (found.key() == bound.key()) == (operator == "==")
    if operator == "~=":
        prefix = bound._replace(release=bound.release[:-1])
        return candidate.key() >= bound.key() and _has_prefix(candidate, prefix, open_below=True)
    return _ordered(operator, candidate, bound)


def _ordered(operator: str, candidate: Version, bound: Version) -> bool:
    if operator == ">=":
        return candidate.key() >= bound.key()
    if operator == "<=":
        return candidate.public().key() <= bound.key()
    if operator == "<":
        # `<1.0` does not take 1.0rc1 unless the bound is itself a pre-release.
        floor = bound if bound.is_prerelease() else bound._replace(dev=0)
        return candidate.key() < floor.key()
    return candidate.public().key() > bound.key() and not _post_of(candidate, bound)


def _post_of(candidate: Version, bound: Version) -> bool:
    """Whether `candidate` is a post-release that `>bound` leaves out: `>1.0` does not take 1.0.post1."""
    if bound.post is not None or bound.dev is not None or candidate.post is None:
        return False
    same_release = (candidate.epoch, _trim(candidate.release)) == (bound.epoch, _trim(bound.release))
    return same_release and candidate.pre == bound.pre


def _has_prefix(candidate: Version, prefix: Version, *, open_below: bool = False) -> bool:
    """Whether `candidate` lies in `prefix.*`; with `open_below` only the upper end is asked for."""
    width = len(prefix.release)
    padded = candidate.release + (0,) * (width - len(candidate.release))
    found, wanted = (candidate.epoch, padded[:width]), (prefix.epoch, prefix.release)
    return found <= wanted if open_below else found == wanted


def _same_text(wanted: str, version: str) -> bool:
    return wanted.lower() == version.strip().lower()
