"""Who requires whom in an environment: what nothing needs, and what is needed and not there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from understudy.demo import environment, versions
from understudy.demo.environment import Facts
from understudy.demo.markers import Requirement, canonical, evaluate


class Unused(Struct, frozen=True):
    """A distribution that nothing requires and nobody asked for by name.

    `extras` names those that would require it under an extra nobody asked for, as `name[extra]`.
    """

    key: str
    extras: tuple[str, ...] = ()


class Pin(Struct, frozen=True):
    """A requirement of `key` that the environment does not satisfy: `missing`, or `incompatible` in version `found`."""

    key: str
    requirement: str
    needs: str
    problem: Literal["missing", "incompatible"]
    found: str = ""


class Graph(Struct, frozen=True):
    """What only the whole environment can tell, sorted."""

    unused: tuple[Unused, ...] = ()
    pins: tuple[Pin, ...] = ()


def graph(path: Sequence[str] | None = None) -> Graph:
    """Unused distributions and unsatisfied requirements of an environment; `path` as in `environment`. Blocks."""
    return weigh(environment.read_all(path))


def unused(path: Sequence[str] | None = None) -> tuple[Unused, ...]:
    """Distributions required by nothing and without a `REQUESTED` marker, sorted. Blocks."""
    return graph(path).unused


def pins(path: Sequence[str] | None = None) -> tuple[Pin, ...]:
    """Requirements that are missing or installed in a version outside their specifier, sorted. Blocks."""
    return graph(path).pins


class _Edge(NamedTuple):
    source: str
    requirement: Requirement

    @property
    def target(self) -> str:
        return canonical(self.requirement.name)


def weigh(installed: Sequence[Facts]) -> Graph:
    """The same from facts already read.

    A requirement counts when its marker holds in this interpreter. One under an extra counts only when some
    counting requirement asks for `name[extra]`. A distribution does not keep itself in use.
    """
    known = {one.key: one for one in installed if not _broken(one)}
    edges = _counting(known)
    needed = {edge.target for edge in edges if edge.target != edge.source}
    idle = [key for key, one in known.items() if key not in needed and not one.requested]
    return Graph(
        unused=tuple(Unused(key, _wishes(key, known)) for key in sorted(idle)),
        pins=tuple(sorted(set(_unsatisfied(edges, known)), key=lambda pin: (pin.key, pin.requirement))),
    )


def _broken(one: Facts) -> bool:
    return any(problem.kind == "broken-folder" for problem in one.problems)


def _counting(known: dict[str, Facts]) -> set[_Edge]:
    """All requirements that count: from every distribution, and from every extra that one of these asks for."""
    edges: set[_Edge] = set()
    seen = {(key, "") for key in known}
    todo = sorted(seen)
    while todo:
        key, extra = todo.pop()
        for requirement in known[key].requires:
            if not evaluate(requirement.marker, extra=extra):
                continue
            edge = _Edge(key, requirement)
            edges.add(edge)
            asked = {(edge.target, canonical(name)) for name in requirement.extras if edge.target in known} - seen
            seen |= asked
            todo += sorted(asked)
    return edges


def _unsatisfied(edges: set[_Edge], known: dict[str, Facts]) -> Iterator[Pin]:
    for edge in edges:
        requirement, target = edge.requirement, known.get(edge.target)
        if target is None:
            yield Pin(edge.source, str(requirement), edge.target, "missing")
        elif not versions.contains(requirement.specifier, target.version):
            yield Pin(edge.source, str(requirement), edge.target, "incompatible", target.version)


def _wishes(key: str, known: dict[str, Facts]) -> tuple[str, ...]:
    """Who would require `key` under an extra: the extras are those its own markers name."""
    wishes = {
        f"{source}[{extra}]"
        for source, one in known.items()
        for requirement in one.requires
        if canonical(requirement.name) == key and source != key
        for extra in _extras_named(requirement.marker)
        if evaluate(requirement.marker, extra=extra)
    }
    return tuple(sorted(wishes))


def _extras_named(marker: str) -> tuple[str, ...]:
    words = marker.replace("(", " ").replace(")", " ").replace("=", " ").split()
    names = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "extra"]
    return tuple(canonical(name.strip("\"'")) for name in names)
