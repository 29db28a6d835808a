"""Names of one node: paths, which are unique, and short names, which may be ambiguous.

The path "audit/inspector/2" is also found as "inspector/2", if no other path ends so. There is no index: the tree of
parents and children is one, and an actor that nobody looks up costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, Self, TypeVar

from understudy.actors.errors import SpecError

Name = str | int
"""What somebody chose (it may contain "/"), or the number of a name that nobody chose: 7 is shown as "$7"."""


class Node(Protocol):
    """What has children by name."""

    @property
    def path(self) -> str:
        """The names from the top to here, joined by "/"."""
        ...

    @property
    def children(self) -> Mapping[Name, Self]:
        """By name, in start order."""
        ...


N = TypeVar("N", bound=Node)


class Registry(Generic[N]):
    """Finds the nodes of a forest by path or by an unambiguous ending of it. `top` holds the roots."""

    def __init__(self) -> None:
        self.top: dict[Name, N] = {}

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[N]:
        """Parents before their children, in start order."""
        waiting = [*self.top.values()][::-1]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend([*node.children.values()][::-1])

    def at(self, path: str) -> N | None:
        """What has exactly this path."""
        return _resolve(self.top, path)

    def find(self, name: str) -> N | None:
        """What has this path or short name; None when unknown. Raises `SpecError` when it is ambiguous."""
        exact = self.at(name)
        if exact is not None:
            return exact
        found = {id(node): node for parent in self if parent.children if (node := _resolve(parent.children, name))}
        if len(found) > 1:
            paths = ", ".join(sorted(node.path for node in found.values()))
            raise SpecError(f"the name {name!r} is ambiguous: {paths}")
        return next(iter(found.values()), None)

    def names(self) -> tuple[str, ...]:
        """All paths, sorted."""
        return tuple(sorted(node.path for node in self))


def parse(name: str) -> Name:
    """The name as it is kept: "$7" is 7."""
    return int(name[1:]) if name.startswith("$") and name[1:].isdecimal() else name


def _resolve(children: Mapping[Name, N], path: str) -> N | None:
    """The node below these. Names may contain "/", so a path may be cut in several places."""
    found = children.get(parse(path))
    cut = path.find("/")
    while found is None and cut >= 0:
        node = children.get(parse(path[:cut]))
        if node is not None and node.children:
            found = _resolve(node.children, path[cut + 1 :])
        cut = path.find("/", cut + 1)
    return found
