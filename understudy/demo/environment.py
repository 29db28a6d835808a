"""Reads one Python environment through `importlib.metadata`: what is installed, what it says of itself, what it has.

Everything here blocks, reads the disk only, and gives the same answer for the same disk, in a fixed order. No
result holds an absolute path or a time. `path` is a list of folders as in `sys.path`; None means this interpreter's
own, without the working directory, as pip sees it. What counts as installed follows pip: per name the first on the
path, the name and version of the metadata folder before those in the metadata. So the listed distributions equal
`pip list --format json` of that environment. Where pip's versions differ, over broken metadata only, pip 26 is
followed; older ones leave such an entry out, or end with a traceback.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.message import Message
from email.parser import HeaderParser
from functools import cache, cached_property
from importlib.metadata import Distribution, MetadataPathFinder
from importlib.metadata import distributions as _discover
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec
from msgspec import Struct

from understudy.demo import versions
from understudy.demo.markers import Requirement, canonical, interpreter, parse_requirement, valid_marker

_VALID_NAME = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)
# pip does not list these: old installers left metadata for parts of the standard library.
_STDLIB = frozenset({"python", "wsgiref", "argparse"})
_SAMPLE = 20
_BYTES = re.compile(r"[0-9]{1,15}")


class PackageNotFound(LookupError):
    """No distribution of this name is installed. `name` is the name as it was asked for, to the letter."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no distribution named {name!r}")
        self.name = name


class DistributionRef(Struct, frozen=True):
    """One entry of the list. `key` is the name to ask for: canonical, or for a broken entry its folder's name.

    `version` is empty when neither folder nor metadata tell it. `listed` says that pip lists it; `broken` is why it
    does not, in one phrase.
    """

    key: str
    name: str
    version: str
    listed: bool = True
    broken: str = ""


class Licence(Struct, frozen=True):
    """What the metadata says of the licence: `License-Expression`, the first line of `License`, its classifiers.

    `whole` says that `line` is all of `License`; `files` counts `License-File` entries.
    """

    expression: str = ""
    line: str = ""
    whole: bool = True
    classifiers: tuple[str, ...] = ()
    files: int = 0

    def __str__(self) -> str:
        named = [name.removeprefix("License :: ").removeprefix("OSI Approved :: ") for name in self.classifiers]
        return self.expression or (self.line if self.whole else "") or " / ".join(named) or self.line


class Problem(Struct, frozen=True):
    """Something wrong with the metadata itself. `kind` is one of those in `PROBLEMS`."""

    kind: str
    detail: str


PROBLEMS = (
    "broken-folder",
    "missing-metadata",
    "not-utf8",
    "missing-name",
    "missing-version",
    "invalid-version",
    "name-mismatch",
    "version-mismatch",
    "invalid-requirement",
    "python-mismatch",
    "missing-record",
)
"""Every kind of `Problem`."""


class Facts(Struct, frozen=True):
    """What one distribution says of itself.

    `requested` is the `REQUESTED` marker file: somebody asked for it by name. `copies` are the metadata folders of
    the same name, as `folder` of this and others, when there is more than one; a development install's own
    egg-info beside its sources does not count.
    """

    key: str
    name: str
    version: str
    summary: str = ""
    licence: Licence = Licence()
    requires_python: str = ""
    requires: tuple[Requirement, ...] = ()
    requested: bool = False
    installer: str = ""
    editable: bool = False
    problems: tuple[Problem, ...] = ()
    copies: tuple[str, ...] = ()


class SizeChange(Struct, frozen=True):
    """A file whose size on disk differs from RECORD. Sizes are bytes."""

    file: str
    recorded: int
    found: int


class Files(Struct, frozen=True):
    """What RECORD lists, without compiled files. `bytes` adds up the sizes in RECORD.

    `missing` and `changed` name at most the first 20 of `missing_count` and `changed_count`, sorted. Without a
    RECORD `recorded` is False and all else empty. The files of a zip archive are not looked at.
    """

    key: str
    recorded: bool = False
    files: int = 0
    bytes: int = 0
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    changed: tuple[SizeChange, ...] = ()
    changed_count: int = 0


def search_path() -> tuple[str, ...]:
    """`sys.path` without the working directory that `python -m` puts first: the folders that pip looks at."""
    return tuple(sys.path[1:] if sys.path and sys.path[0] in ("", os.getcwd()) else sys.path)


def distributions(path: Sequence[str] | None = None) -> tuple[DistributionRef, ...]:
    """All distributions by canonical name, then the broken entries by folder name. Those `listed` equal pip's list."""
    found = [_ref(entry) for entry in _entries(path) if not entry.shadowed]
    return tuple(sorted(found, key=lambda ref: (not ref.listed, ref.key)))


def facts(name: str, path: Sequence[str] | None = None) -> Facts:
    """The facts of one distribution, by name in any spelling PEP 503 holds equal, or by the key of a broken entry.

    Nothing is stripped: `"attrs "` is not `"attrs"`. Raises `PackageNotFound`.
    """
    entries = list(_entries(path))
    return _facts(_find(name, entries), entries)


def files(name: str, path: Sequence[str] | None = None) -> Files:
    """What RECORD of one distribution lists and what of it is on disk; content is not read. Raises `PackageNotFound`.

    `name` as for `facts`.
    """
    entry = _find(name, list(_entries(path)))
    record = entry.text("RECORD")
    return Files(entry.key) if record is None else _files(entry, _rows(record))


def read_all(path: Sequence[str] | None = None) -> tuple[Facts, ...]:
    """The facts of everything `distributions` names, in its order, in one pass."""
    entries = list(_entries(path))
    found = [_facts(entry, entries) for entry in entries if not entry.shadowed]
    broken = {entry.key for entry in entries if entry.broken}
    return tuple(sorted(found, key=lambda one: (one.key in broken, one.key)))


class _InfoPath(Protocol):
    """What `pathlib.Path` and `zipfile.Path` share."""

    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> _InfoPath: ...
    def joinpath(self, *parts: str) -> _InfoPath: ...
    def read_text(self, encoding: str, errors: str) -> str: ...


class _Entry:
    """One metadata folder. Metadata is read when first asked for: finding one name should not parse all."""

    def __init__(self, distribution: Distribution, info: _InfoPath) -> None:
        self.distribution = distribution
        self.info = info
        self.folder = info.name
        self.shadowed = False
        """A folder of the same key comes earlier on the path."""
        self.folder_name, self.folder_version = _folder_parts(info.name)

    @cached_property
    def metadata(self) -> tuple[Message | None, bool]:
        """The headers, None without a metadata file, and whether they were UTF-8."""
        for file in ("METADATA", "PKG-INFO", ""):  # the last for an egg-info that is itself the file
            text, utf8 = _text(self.distribution, self.info, file)
            if text:
                return HeaderParser().parsestr(text), utf8
        return None, True

    @property
    def message(self) -> Message | None:
        return self.metadata[0]

    @cached_property
    def broken(self) -> str:
        if not _VALID_NAME.fullmatch(canonical(self.folder_name or _header(self.message, "Name"))):
            return "no valid name in folder or metadata"
        return ""

    @cached_property
    def key(self) -> str:
        return self.folder if self.broken else canonical(self.folder_name or self.name)

    @property
    def name(self) -> str:
        return _header(self.message, "Name") or (self.folder if self.broken else canonical(self.folder_name))

    @property
    def version(self) -> str:
        said = _header(self.message, "Version")
        return versions.normal(self.folder_version or said) or said

    def text(self, file: str) -> str | None:
        return _text(self.distribution, self.info, file)[0]


def _entries(path: Sequence[str] | None) -> Iterator[_Entry]:
    """Every metadata folder on the path, once, in the order in which pip meets them."""
    # The finder remembers folders by their time stamp, too coarse for a change within the same tick of the clock.
    MetadataPathFinder().invalidate_caches()
    keys: set[str] = set()
    places: set[tuple[str, str]] = set()

    @cache  # for this pass only: a link may point elsewhere in the next
    def real(folder: str) -> str:
        return os.path.realpath(folder)

    for distribution, info in _infos(search_path() if path is None else path):
        place = real(str(info.parent)), info.name
        if place in places:
            continue
        places.add(place)
        entry = _Entry(distribution, info)
        if entry.key not in _STDLIB:
            entry.shadowed = entry.key in keys
            keys.add(entry.key)
            yield entry


def _infos(path: Sequence[str]) -> Iterator[tuple[Distribution, _InfoPath]]:
    for location in path:
        if location.endswith(".whl"):
            continue  # a wheel on the path is importable, yet not installed
        for folder in (location, *_linked(location)):
            for distribution in _discover(path=[folder]):
                # pip reads the same attribute; there is no public way from a distribution to its folder.
                info: _InfoPath | None = getattr(distribution, "_path", None)
                if info is not None:
                    yield distribution, info


def _linked(location: str) -> Iterator[str]:
    """The folders that the egg-links in `location` point to: how development installs once were made."""
    try:
        links = sorted(entry.name for entry in os.scandir(location) if entry.name.endswith(".egg-link"))
    except OSError:
        return
    for link in links:
        text = Path(location, link).read_text(encoding="utf-8", errors="replace")
        target = next((line.strip() for line in text.splitlines() if line.strip()), "")
        if target:
            yield str(Path(location, target))


def _folder_parts(folder: str) -> tuple[str, str]:
    """Name and version by the folder's name, as pip reads them; empty where it does not tell."""
    stem, suffix = os.path.splitext(folder)
    name, dash, version = stem.partition("-")
    if suffix == ".dist-info" and dash:
        return name, version
    return (name, "") if suffix == ".egg-info" else ("", "")


def _text(distribution: Distribution, info: _InfoPath, file: str) -> tuple[str | None, bool]:
    """The text of a metadata file, None when there is none, and whether it was UTF-8."""
    try:
        return distribution.read_text(file), True
    except UnicodeDecodeError:
        place = info.joinpath(file) if file else info
        return place.read_text(encoding="utf-8", errors="replace"), False
    except OSError:
        return None, True


def _header(message: Message | None, name: str) -> str:
    """The first header of this name on one line; empty when absent or `UNKNOWN`, which setuptools wrote for absent."""
    text = " ".join(str(message.get(name) or "").split()) if message is not None else ""
    return "" if text == "UNKNOWN" else text


def _headers(message: Message | None, name: str) -> tuple[str, ...]:
    values = message.get_all(name, []) if message is not None else []
    return tuple(" ".join(str(value).split()) for value in values)


def _ref(entry: _Entry) -> DistributionRef:
    return DistributionRef(entry.key, entry.name, entry.version, not entry.broken, entry.broken)


def _find(name: str, entries: Sequence[_Entry]) -> _Entry:
    wanted = canonical(name)
    shown = [entry for entry in entries if not entry.shadowed]
    for entry in shown:
        if entry.key == (name if entry.broken else wanted):
            return entry
    for entry in shown:  # pip shows the name in the metadata, which may differ from the folder's
        if not entry.broken and canonical(entry.name) == wanted:
            return entry
    raise PackageNotFound(name)


def _facts(entry: _Entry, entries: Sequence[_Entry]) -> Facts:
    message = entry.message
    requires, unread = _requires(entry)
    return Facts(
        key=entry.key,
        name=entry.name,
        version=entry.version,
        summary=_header(message, "Summary"),
        licence=_licence(message),
        requires_python=_header(message, "Requires-Python"),
        requires=requires,
        requested=entry.text("REQUESTED") is not None,
        installer=" ".join((entry.text("INSTALLER") or "").split()),
        editable=_project(entry) is not None,
        problems=(*_problems(entry), *unread),
        copies=_copies(entry, entries),
    )


def _licence(message: Message | None) -> Licence:
    text = str(message.get("License") or "") if message is not None else ""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    first = lines[0][:120] if lines and lines[0] != "UNKNOWN" else ""
    classifiers = (name for name in _headers(message, "Classifier") if name.startswith("License ::"))
    return Licence(
        expression=_header(message, "License-Expression"),
        line=first,
        whole=len(lines) <= 1 and first == "".join(lines[:1]).replace("UNKNOWN", ""),
        classifiers=tuple(sorted(set(classifiers))),
        files=len(_headers(message, "License-File")),
    )


def _requires(entry: _Entry) -> tuple[tuple[Requirement, ...], tuple[Problem, ...]]:
    texts = _headers(entry.message, "Requires-Dist")
    if not texts and entry.folder.lower().endswith("egg-info"):
        texts = tuple(entry.distribution.requires or ())  # requires.txt, translated by the standard library
    requires: list[Requirement] = []
    problems: list[Problem] = []
    for text in texts:
        one = parse_requirement(text)
        if one is not None:
            requires.append(one)
        if one is None or not valid_marker(one.marker):
            problems.append(Problem("invalid-requirement", f"cannot read requirement {_short(text.split('@')[0])!r}"))
    return tuple(requires), tuple(problems)


def _problems(entry: _Entry) -> Iterator[Problem]:
    if entry.broken:
        yield Problem("broken-folder", f"{entry.folder}: {entry.broken}")
    if entry.message is None:
        yield Problem("missing-metadata", f"{entry.folder} has no METADATA file")
    else:
        yield from _contradictions(entry)
    if entry.folder.endswith(".dist-info") and entry.text("RECORD") is None:
        yield Problem("missing-record", "no RECORD: its files cannot be told")


def _contradictions(entry: _Entry) -> Iterator[Problem]:
    name, version = _header(entry.message, "Name"), _header(entry.message, "Version")
    folder_name, folder_version = entry.folder_name, entry.folder_version
    if not entry.metadata[1]:
        yield Problem("not-utf8", "METADATA is not UTF-8")
    if not name:
        yield Problem("missing-name", "METADATA has no Name")
    elif folder_name and canonical(name) != canonical(folder_name):
        yield Problem("name-mismatch", f"METADATA says {_short(name)!r}, the folder {folder_name!r}")
    if not version:
        yield Problem("missing-version", "METADATA has no Version")
    elif versions.normal(version) is None:
        yield Problem("invalid-version", f"{_short(version)!r} is not a version")
    elif folder_version and versions.normal(folder_version.replace("_", "-")) != versions.normal(version):
        yield Problem("version-mismatch", f"METADATA says {_short(version)!r}, the folder {folder_version!r}")
    yield from _python_mismatch(_header(entry.message, "Requires-Python"))


def _python_mismatch(specifier: str) -> Iterator[Problem]:
    running = interpreter()["python_full_version"]
    try:
        if not versions.contains(specifier, running):
            yield Problem("python-mismatch", f"needs Python {specifier}, this is {running}")
    except versions.InvalidSpecifier as error:
        yield Problem("invalid-requirement", f"Requires-Python: {_short(str(error))}")


def _copies(entry: _Entry, entries: Sequence[_Entry]) -> tuple[str, ...]:
    same = [other for other in entries if other.key == entry.key]
    projects = [project for other in same if (project := _project(other)) is not None]
    kept = [other.folder for other in same if not _by_product(other, projects)]
    return tuple(sorted(kept)) if len(kept) > 1 and not entry.broken else ()


def _by_product(entry: _Entry, projects: Sequence[str]) -> bool:
    """Whether this is the egg-info that building a development install leaves beside the sources."""
    place = os.path.realpath(str(entry.info))
    return entry.folder.endswith(".egg-info") and any(place.startswith(project + os.sep) for project in projects)


class _DirectUrl(Struct):
    url: str
    dir_info: dict[str, bool] = {}


def _project(entry: _Entry) -> str | None:
    """The source folder of a development install, None for any other."""
    text = entry.text("direct_url.json")
    try:
        said = msgspec.json.decode(text or "null", type=_DirectUrl)
        parts = urlsplit(said.url)
    except (msgspec.DecodeError, ValueError):
        return None
    editable = said.dir_info.get("editable", False) and parts.scheme == "file"
    return os.path.realpath(url2pathname(parts.path)) if editable else None


def _rows(record: str) -> Iterator[tuple[str, int | None]]:
    """File and size of each row of RECORD, without compiled files."""
    rows = csv.reader(record.splitlines())
    with suppress(csv.Error):  # a field beyond csv's limit: what came before still counts
        for row in rows:
            if row and row[0] and not row[0].endswith((".pyc", ".pyo")) and "__pycache__" not in row[0]:
                yield row[0], int(row[2]) if len(row) > 2 and _BYTES.fullmatch(row[2]) else None


def _files(entry: _Entry, rows: Iterator[tuple[str, int | None]]) -> Files:
    root = str(entry.info.parent) if isinstance(entry.info, Path) else None
    recorded = dict(rows)
    missing: list[str] = []
    changed: list[SizeChange] = []
    for file, size in sorted(recorded.items()) if root is not None else ():
        found = _size(os.path.join(root or "", file))
        if found is None:
            missing.append(file)
        elif size is not None and found != size:
            changed.append(SizeChange(file, size, found))
    return Files(
        key=entry.key,
        recorded=True,
        files=len(recorded),
        bytes=sum(size or 0 for size in recorded.values()),
        missing=tuple(missing[:_SAMPLE]),
        missing_count=len(missing),
        changed=tuple(changed[:_SAMPLE]),
        changed_count=len(changed),
    )


def _size(file: str) -> int | None:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
