"""The audit as documents: Markdown for people, JSON for programs, and how they get onto the disk."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from understudy.demo import environment, findings, requirements
from understudy.demo.findings import Audited, Finding, Report, Severity

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
_STEM = "audit"


class ReportNotWritten(OSError):
    """The report could not be written; the text is one line. `path` is the file, the cause is kept."""

    def __init__(self, path: Path, reason: OSError) -> None:
        super().__init__(reason.errno, f"cannot write {path}: {reason.strerror or reason}")
        self.path = path

    def __str__(self) -> str:
        return str(self.args[1])


def audit(path: Sequence[str] | None = None) -> Report:
    """The whole audit in one go, without any agent; `path` as in `environment`. Blocks.

    Broken entries have findings and no line in the table: pip does not list them.
    """
    found = {one.key: one for one in environment.read_all(path)}
    graph = requirements.weigh(tuple(found.values()))
    lines: list[Audited] = []
    said: list[Finding] = []
    for ref in environment.distributions(path):
        facts, files = found[ref.key], environment.files(ref.key, path)
        said += findings.judge(facts, files, graph)
        if ref.listed:
            lines.append(findings.audited(facts, files))
    return Report(tuple(lines), findings.merge(said))


def to_json(report: Report) -> bytes:
    """The report as indented JSON, with its `digest`; ends in a newline."""
    document = {"digest": findings.digest(report.findings), **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def to_markdown(report: Report, digest: str | None = None) -> str:
    """The report for people: a summary, the findings by severity, all distributions. `digest` as by `findings`."""
    shown = findings.digest(report.findings) if digest is None else digest
    parts = (_summary(report, shown), _findings(report.findings), _distributions(report.distributions))
    return "\n".join(line for part in parts for line in part)


def write_report(target: str | os.PathLike[str], report: Report) -> tuple[Path, Path]:
    """Writes Markdown and JSON side by side, and gives their paths.

    `target` is a folder, then they are `audit.md` and `audit.json` in it, or a file name, with or without one of
    these two endings. Each file appears whole or not at all; one that stood there is replaced. Both are complete on
    disk before the first takes its place. Raises `ReportNotWritten`; both are then as they were, unless the system
    refuses the second of the two renames alone.
    """
    markdown, json = _names(target)
    contents = {markdown: to_markdown(report).encode(), json: to_json(report)}
    waiting: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            waiting[file] = _beside(file, content)
        for file in list(waiting):
            _replace(file, waiting.pop(file))
    finally:
        for leftover in waiting.values():
            leftover.unlink(missing_ok=True)
    return markdown, json


def human_size(count: int) -> str:
    """Bytes for people, in steps of 1,000: `999 B`, `1.2 kB`, `34 MB`."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}" if units[0] != "B" and size < 9.95 else f"{size:.0f} {units[0]}"


def _summary(report: Report, digest: str) -> Iterator[str]:
    counts = Counter(finding.severity for finding in report.findings)
    said = ", ".join(_count(counts[severity], severity) for severity in _SEVERITIES if counts[severity])
    yield from ("# Audit of a Python environment", "")
    yield from _table(
        ("Summary", ""),
        [
            ("Distributions", str(len(report.distributions))),
            ("Files by RECORD", f"{sum(one.files for one in report.distributions):,}"),
            ("Size by RECORD", human_size(sum(one.bytes for one in report.distributions))),
            ("Findings", f"{len(report.findings)} ({said})" if said else "none"),
            ("Digest of findings", f"`{digest}`"),
        ],
    )
    if report.not_audited:
        yield from ("", f"**Not audited:** {', '.join(map(_plain, report.not_audited))}")


def _findings(all_findings: Sequence[Finding]) -> Iterator[str]:
    yield from ("", "## Findings")
    if not all_findings:
        yield from ("", "None.")
    for severity in _SEVERITIES:
        rows = [(one.distribution, one.rule, one.detail) for one in all_findings if one.severity == severity]
        if rows:
            yield from ("", f"### {_count(len(rows), severity)}", "")
            yield from _table(("Distribution", "Rule", "Detail"), rows)


def _distributions(lines: Sequence[Audited]) -> Iterator[str]:
    yield from ("", "## Distributions", "")
    rows = [(one.name, one.version, one.licence or "–", str(one.files), human_size(one.bytes)) for one in lines]
    yield from _table(("Name", "Version", "Licence", "Files", "Size"), rows, right=2)
    yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> Iterator[str]:
    """A Markdown table; its last `right` columns are aligned to the right."""
    rules = ["---"] * (len(head) - right) + ["---:"] * right
    yield _row(head)
    yield _row(rules)
    for row in rows:
        yield _row([_plain(cell) for cell in row])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Metadata is foreign text: no cell may break the table or smuggle in markup."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    flat = " ".join(shown.split()).replace("\\", "\\\\").replace("|", "\\|")
    return flat.replace("<", "&lt;").replace("[", "\\[")


def _count(number: int, severity: str) -> str:
    return f"{number} {severity}" if number == 1 or severity == "info" else f"{number} {severity}s"


def _names(target: str | os.PathLike[str]) -> tuple[Path, Path]:
    text = os.fspath(target)
    path = Path(text)
    if path.is_dir() or text.endswith(("/", os.sep)):
        path = path / _STEM
    elif path.suffix in (".md", ".json"):
        path = path.with_suffix("")
    return path.with_name(path.name + ".md"), path.with_name(path.name + ".json")


def _beside(file: Path, content: bytes) -> Path:
    """Writes to a hidden file in the same folder, so that a rename can put it in place."""
    hidden = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        if file.is_dir():  # found now, not when the other file is already in place
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with hidden.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise ReportNotWritten(file, error) from error
    return hidden


def _replace(file: Path, hidden: Path) -> None:
    try:
        hidden.replace(file)
    except OSError as error:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise ReportNotWritten(file, error) from error
