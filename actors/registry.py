"""Names of one node: paths, which are unique, and short names, which may be ambiguous.

The path "audit/inspector/2" is also found as "inspector/2", if no other path ends so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from understudy.actors.errors import SpecError

V = TypeVar("V")


class Registry(Generic[V]):
    """A map from paths to values that also answers to unambiguous endings of paths."""

    def __init__(self) -> None:
        self._paths: dict[str, V] = {}
        self._endings: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[V]:
        return iter(list(self._paths.values()))

    def add(self, path: str, value: V) -> None:
        """Claim a path. Raises `SpecError` when it is taken."""
        if path in self._paths:
            raise SpecError(f"the name {path!r} is taken")
        self._paths[path] = value
        for ending in _endings(path):
            self._endings.setdefault(ending, set()).add(path)

    def remove(self, path: str) -> None:
        """Release a path; unknown paths are passed over."""
        if self._paths.pop(path, None) is None:
            return
        for ending in _endings(path):
            kept = self._endings[ending]
            kept.discard(path)
            if not kept:
                del self._endings[ending]

    def find(self, name: str) -> V | None:
        """The value for a path or a short name; None when unknown. Raises `SpecError` when it is ambiguous."""
        if name in self._paths:
            return self._paths[name]
        paths = self._endings.get(name, ())
        if len(paths) > 1:
            raise SpecError(f"the name {name!r} is ambiguous: {', '.join(sorted(paths))}")
        return next((self._paths[p] for p in paths), None)

    def names(self) -> tuple[str, ...]:
        """All paths, sorted."""
        return tuple(sorted(self._paths))


def _endings(path: str) -> Iterator[str]:
    parts = path.split("/")
    for start in range(1, len(parts)):
        yield "/".join(parts[start:])
