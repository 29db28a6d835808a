"""Names: paths are unique, short names may be ambiguous; against a naive model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from understudy.actors.errors import SpecError
from understudy.actors.registry import Name, Registry, parse

NAMES = st.sampled_from(["a", "b", "1", "a/1", "b/a", "$3"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


class Node:
    def __init__(self, path: str) -> None:
        self._path = path
        self.below: dict[Name, Node] = {}

    @property
    def path(self) -> str:
        return self._path

    @property
    def children(self) -> Mapping[Name, Node]:
        return self.below


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[Node] = Registry()
        self.model: dict[str, tuple[Node, Node | None, Name]] = {}

    @rule(name=NAMES, parent=st.integers(0, 5))
    def add(self, name: str, parent: int) -> None:
        parents = [node for node, _, _ in self.model.values()]
        above = parents[parent] if parent < len(parents) else None
        path = f"{above.path}/{name}" if above is not None else name
        if path in self.model:
            assert self.registry.at(path) is self.model[path][0]
            return
        assert self.registry.at(path) is None
        siblings = above.below if above is not None else self.registry.top
        node = siblings[parse(name)] = Node(path)
        self.model[path] = node, above, parse(name)

    @rule(number=st.integers(0, 20))
    def remove(self, number: int) -> None:
        leaves = [path for path, (node, _, _) in self.model.items() if not node.below]
        if leaves:
            _, above, name = self.model.pop(leaves[number % len(leaves)])
            del (above.below if above is not None else self.registry.top)[name]

    @rule(name=PATHS)
    def find(self, name: str) -> None:
        ending = sorted(path for path in self.model if path in self._below(path, name))
        if name in self.model:
            assert self.registry.find(name) is self.registry.at(name) is self.model[name][0]
        elif len(ending) > 1:
            with pytest.raises(SpecError, match="is ambiguous") as caught:
                self.registry.find(name)
            assert str(caught.value) == f"the name {name!r} is ambiguous: {', '.join(ending)}"
        else:
            assert self.registry.at(name) is None
            assert self.registry.find(name) is (self.model[ending[0]][0] if ending else None)

    def _below(self, path: str, ending: str) -> set[str]:
        """What the ending means below each ancestor: "1" is no short name of an actor that is named "a/1"."""
        found: set[str] = set()
        above = self.model[path][1]
        while above is not None:
            found.add(f"{above.path}/{ending}")
            above = self.model[above.path][1]
        return found

    @invariant()
    def it_lists_what_it_holds(self) -> None:
        assert self.registry.names() == tuple(sorted(self.model))
        assert len(self.registry) == len(self.model)


TestRegistry = pytest.mark.promise(130)(RegistryMachine.TestCase)


def test_a_child_comes_after_its_parent() -> None:
    registry: Registry[Node] = Registry()
    a, b, c = Node("a"), Node("b"), Node("a/c")
    registry.top.update(a=a, b=b)
    a.below["c"] = c
    assert list(registry) == [a, c, b]
