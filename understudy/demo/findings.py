"""The rules of the audit: from facts to findings. Pure, and the same for facts that came back from JSON.

A finding names a distribution, a rule and what is wrong, and nothing that differs from one audit of the same
environment to the next: no time, no id, no absolute path, no `__pycache__`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from understudy.demo.environment import Facts, Files, Licence
from understudy.demo.requirements import Graph

Severity = Literal["info", "warning", "error"]

RULES: dict[str, Severity] = {
    "broken-metadata": "error",
    "contradictory-licence": "warning",
    "contradictory-metadata": "warning",
    "duplicate": "warning",
    "files-missing": "error",
    "missing-licence": "warning",
    "missing-metadata": "error",
    "missing-record": "info",
    "size-mismatch": "warning",
    "unsatisfied-pin": "error",
    "unsatisfied-python": "error",
    "unused": "info",
}
"""Every rule with the severity of its findings."""

_RULE_OF_PROBLEM = {
    "missing-metadata": "missing-metadata",
    "missing-record": "missing-record",
    "name-mismatch": "contradictory-metadata",
    "version-mismatch": "contradictory-metadata",
    "python-mismatch": "unsatisfied-python",
}
_FAMILIES = {
    "AGPL": r"\bagpl|affero",
    "Apache": r"\bapache",
    "Artistic": r"\bartistic",
    "BSD": r"bsd",
    "Boost": r"\bbsl-1|\bboost",
    "EPL": r"\bepl\b|\bepl-|eclipse public",
    "GPL": r"\bgpl|gnu general public",
    "ISC": r"\biscl?\b",
    "LGPL": r"\blgpl|(lesser|library) general public",
    "MIT": r"\bmit\b",
    "MPL": r"\bmpl|mozilla public",
    "PSF": r"\bpsf|\bpython\b",
    "Proprietary": r"\bproprietary",
    "public domain": r"\bcc0|public domain|\bunlicense",
    "ZPL": r"\bzpl|zope public",
}
_PATH_RE = re.compile(r"""(?<![\w.:/\\-])(?:file:/*)?(?:/|~/|[A-Za-z]:[\\/]|\\\\)[^\s'",;:)\]]+""")


class Finding(Struct, frozen=True):
    """One thing worth knowing. `distribution` is the key of the list; `rule` one of `RULES`."""

    distribution: str
    rule: str
    severity: Severity
    detail: str


class Audited(Struct, frozen=True):
    """One line of the report's table. `bytes` and `files` are by RECORD, without compiled files."""

    key: str
    name: str
    version: str
    licence: str = ""
    files: int = 0
    bytes: int = 0


class Report(Struct, frozen=True):
    """The audit's result: what pip lists, and what was found.

    `batches` are the keys each inspector was given; `not_audited` the keys that were listed and not looked at.
    """

    distributions: tuple[Audited, ...] = ()
    findings: tuple[Finding, ...] = ()
    batches: tuple[tuple[str, ...], ...] = ()
    not_audited: tuple[str, ...] = ()


def judge(facts: Facts, files: Files | None, graph: Graph) -> tuple[Finding, ...]:
    """All findings about one distribution, sorted. Of `graph` only what names this distribution counts.

    Without `files` the rules about files are left out.
    """
    found = [*_metadata(facts), *_licence(facts), *_copies(facts), *_graph(facts.key, graph)]
    if files is not None:
        found += _files(files)
    return merge(found)


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings in their one order, by distribution, rule and detail, each once."""
    return tuple(sorted(set(findings), key=lambda one: (one.distribution, one.rule, one.detail, one.severity)))


def digest(findings: Iterable[Finding]) -> str:
    """16 hexadecimal digits that depend on the set of findings only, not on their order or on who made them."""
    text = msgspec.json.encode(merge(findings), order="sorted")
    return hashlib.sha256(text).hexdigest()[:16]


def audited(facts: Facts, files: Files | None) -> Audited:
    """The line of the table for one distribution."""
    size = (files.files, files.bytes) if files is not None else (0, 0)
    return Audited(facts.key, facts.name, facts.version, _clean(str(facts.licence)), *size)


def licence_families(text: str) -> frozenset[str]:
    """The licence families that a text names, such as `MIT` or `GPL`; empty when it names none that we know."""
    return frozenset(family for family, pattern in _FAMILIES.items() if re.search(pattern, text.lower()))


def _finding(key: str, rule: str, detail: str, severity: Severity | None = None) -> Finding:
    return Finding(_clean(key), rule, severity or RULES[rule], _clean(detail))


def _clean(text: str) -> str:
    """One line without absolute paths: metadata may hold anything."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(_PATH_RE.sub("<path>", shown).replace("__pycache__", "<cache>").split())


def _metadata(facts: Facts) -> Iterator[Finding]:
    for problem in facts.problems:
        rule = _RULE_OF_PROBLEM.get(problem.kind, "broken-metadata")
        severity: Severity | None = "warning" if problem.kind == "invalid-requirement" else None
        yield _finding(facts.key, rule, problem.detail, severity)


def _licence(facts: Facts) -> Iterator[Finding]:
    licence = facts.licence
    if any(problem.kind == "missing-metadata" for problem in facts.problems):
        return
    if not (licence.expression or licence.line or licence.classifiers):
        shipped = f"; {licence.files} licence file(s) shipped" if licence.files else ""
        severity: Severity = "info" if licence.files else "warning"
        yield _finding(facts.key, "missing-licence", f"no licence expression, field or classifier{shipped}", severity)
    yield from _contradiction(facts.key, licence)


def _contradiction(key: str, licence: Licence) -> Iterator[Finding]:
    """A classifier of a family that expression or field do not name. Texts without a known family say nothing."""
    field = licence.line if licence.whole and len(licence.line) <= 80 else ""
    said = licence.expression or field
    declared = licence_families(said)
    if not declared or "licenseref" in said.lower():
        return
    for classifier in licence.classifiers:
        if licence_families(classifier) - declared:
            yield _finding(key, "contradictory-licence", f"{said!r} against classifier {classifier!r}")


def _copies(facts: Facts) -> Iterator[Finding]:
    if len(facts.copies) > 1:
        yield _finding(facts.key, "duplicate", f"installed {len(facts.copies)} times: {', '.join(facts.copies)}")


def _graph(key: str, graph: Graph) -> Iterator[Finding]:
    for pin in graph.pins:
        if pin.key == key:
            have = f"{pin.needs} is not installed" if pin.problem == "missing" else f"installed is {pin.found}"
            yield _finding(key, "unsatisfied-pin", f"requires {pin.requirement}; {have}")
    for one in graph.unused:
        if one.key == key:
            extras = f"; wanted only by {_some(one.extras, len(one.extras))}" if one.extras else ""
            yield _finding(key, "unused", f"required by nothing and not requested{extras}")


def _files(files: Files) -> Iterator[Finding]:
    if files.missing_count:
        named = _some(files.missing, files.missing_count)
        yield _finding(files.key, "files-missing", f"{files.missing_count} of {files.files} files missing: {named}")
    if files.changed_count:
        named = _some((change.file for change in files.changed), files.changed_count)
        yield _finding(files.key, "size-mismatch", f"{files.changed_count} of {files.files} files differ: {named}")


def _some(names: Iterable[str], count: int) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
