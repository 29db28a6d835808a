"""Requirements and environment markers as PEP 508 writes them, as far as installed metadata uses them.

An unknown variable and a marker that cannot be read count as true: an audit rather asks for one requirement too
many than overlooks one. `valid_marker` tells them apart from those that were understood.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from functools import cache

from msgspec import Struct

from understudy.demo import versions

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT_RE = re.compile(
    rf"\s*(?P<name>{_NAME})\s*(?:\[(?P<extras>[^\]]*)\]\s*)?"
    r"(?:@\s*(?P<url>\S+)(?=\s|$)|(?P<parens>\([^;()]*\))|(?P<specifier>[^;()@\[\]]*))\s*(?:;(?P<marker>.*))?",
    re.DOTALL,
)
_TOKEN_RE = re.compile(
    r"""\s*(?:(?P<text>'[^']*'|"[^"]*")|(?P<operator>===|==|~=|!=|<=|>=|<|>)|(?P<paren>[()])|(?P<word>[A-Za-z_.]+))"""
)
_VERSIONED = frozenset({"implementation_version", "platform_release", "python_full_version", "python_version"})
_ALIASES = {"python_implementation": "platform_python_implementation"}


class Requirement(Struct, frozen=True):
    """One line of `Requires-Dist`.

    `specifier` is empty when any version will do; for a requirement by URL it is empty too, and the URL, which may
    hold a path of the machine it was made on, is left out. `marker` is the text after the semicolon.
    """

    name: str
    extras: tuple[str, ...] = ()
    specifier: str = ""
    marker: str = ""

    def __str__(self) -> str:
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.specifier}"


def canonical(name: str) -> str:
    """The name to compare by (PEP 503): lower case, runs of `-`, `_` and `.` as one `-`; nothing is stripped."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str) -> Requirement | None:
    """The requirement that `text` spells, or None when name, extras or specifier are not as PEP 508 writes them."""
    match = _REQUIREMENT_RE.fullmatch(text.strip())
    if match is None:
        return None
    extras = _extras(match["extras"])
    specifier = (match["specifier"] or (match["parens"] or "")[1:-1]).strip()
    try:
        versions.check_specifier(specifier)
    except versions.InvalidSpecifier:
        return None
    if extras is None:
        return None
    return Requirement(match["name"], extras, re.sub(r"\s+", "", specifier), " ".join((match["marker"] or "").split()))


def _extras(text: str | None) -> tuple[str, ...] | None:
    names = [name.strip() for name in text.split(",")] if text and text.strip() else []
    return tuple(names) if all(re.fullmatch(_NAME, name) for name in names) else None


@cache
def interpreter() -> Mapping[str, str]:
    """The marker variables of the running interpreter, without `extra`."""
    info = sys.implementation.version
    suffix = "" if info.releaselevel == "final" else f"{info.releaselevel[0]}{info.serial}"
    full = platform.python_version()
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": f"{info.major}.{info.minor}.{info.micro}{suffix}",
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        # Builds from an untagged checkout end in "+", which is no version.
        "python_full_version": f"{full}local" if full.endswith("+") else full,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def evaluate(marker: str, *, extra: str = "", environment: Mapping[str, str] | None = None) -> bool:
    """Whether `marker` holds for `environment` (default: this interpreter) when `extra` is asked for.

    An empty marker holds. Unknown variables and unreadable markers count as true.
    """
    known = dict(interpreter() if environment is None else environment)
    try:
        return not marker.strip() or _Marker(marker, {**known, "extra": canonical(extra)}).value()
    except _Unreadable:
        return True


def valid_marker(marker: str) -> bool:
    """Whether `marker` is empty or could be read; unknown variables do not matter."""
    try:
        if marker.strip():
            _Marker(marker, {}).value()
    except _Unreadable:
        return False
    return True


class _Unreadable(Exception):
    """The marker is not an expression of PEP 508."""


class _Marker:
    """Evaluates while it reads. `and` binds tighter than `or`; both sides are always read, so all syntax is seen."""

    def __init__(self, marker: str, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._tokens = _tokens(marker)
        self._at = 0

    def value(self) -> bool:
        held = self._either()
        if self._at < len(self._tokens):
            raise _Unreadable
        return held

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _either(self) -> bool:
        held = self._both()
        while self._peek() == "or":
            self._take()
            held = self._both() or held
        return held

    def _both(self) -> bool:
        held = self._atom()
        while self._peek() == "and":
            self._take()
            held = self._atom() and held
        return held

    def _atom(self) -> bool:
        if self._peek() != "(":
            return self._comparison()
        self._take()
        held = self._either()
        if self._take() != ")":
            raise _Unreadable
        return held

    def _comparison(self) -> bool:
        left, operator, right = self._take(), self._operator(), self._take()
        if _quoted(left) == _quoted(right):
            raise _Unreadable
        variable = _variable(right if _quoted(left) else left)
        known = self._environment.get(variable)
        if known is None:
            return True
        if _quoted(left):
            return _compare(variable, left[1:-1], operator, known)
        return _compare(variable, known, operator, right[1:-1])

    def _operator(self) -> str:
        token = self._take()
        if token == "not" and self._take() == "in":
            return "not in"
        if token == "in" or re.fullmatch(r"[=!<>~]+", token):
            return token
        raise _Unreadable


def _tokens(marker: str) -> list[str]:
    tokens: list[str] = []
    at, end = 0, len(marker.rstrip())
    while at < end:
        match = _TOKEN_RE.match(marker, at)
        if match is None:
            raise _Unreadable
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


def _quoted(token: str) -> bool:
    return token[:1] in ("'", '"')


def _variable(token: str) -> str:
    name = token.replace(".", "_")
    if not re.fullmatch(r"[A-Za-z_]+", name) or name in ("and", "or", "not", "in"):
        raise _Unreadable
    return _ALIASES.get(name, name)


def _compare(variable: str, left: str, operator: str, right: str) -> bool:
    if variable == "extra":
        left, right = canonical(left), canonical(right)
    elif variable in _VERSIONED and "in" not in operator:
        try:
            return versions.contains(operator + right, left)
        except versions.InvalidSpecifier:
            pass  # not a version after all: compared as text
    return _compare_text(left, operator, right)


def _compare_text(left: str, operator: str, right: str) -> bool:
    """Text has no order: of two texts `<=` and `>=` hold only when they are equal, `<` and `>` never."""
    if operator in ("==", "===", "<=", ">="):
        return left == right
    if operator == "!=":
        return left != right
    if operator in ("in", "not in"):
        return (left in right) == (operator == "in")
    return operator == "~="  # undefined for text: taken as true
