"""Names: paths are unique, short names may be ambiguous; against a naive model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from understudy.actors.errors import SpecError
from understudy.actors.registry import Registry

PARTS = st.sampled_from(["a", "b", "1"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[int] = Registry()
        self.model: dict[str, int] = {}
        self.next = 0

    @rule(path=PATHS)
    def add(self, path: str) -> None:
        self.next += 1
        if path in self.model:
            with pytest.raises(SpecError, match=f"'{path}' is taken"):
                self.registry.add(path, self.next)
        else:
            self.registry.add(path, self.next)
            self.model[path] = self.next

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        self.registry.remove(path)
        self.model.pop(path, None)

    @rule(name=PATHS)
    def find(self, name: str) -> None:
        ending = sorted(path for path in self.model if path.endswith("/" + name))
        if name in self.model:
            assert self.registry.find(name) == self.model[name]
        elif len(ending) > 1:
            with pytest.raises(SpecError, match=f"'{name}' is ambiguous: {', '.join(ending)}"):
                self.registry.find(name)
        else:
            assert self.registry.find(name) == (self.model[ending[0]] if ending else None)

    @invariant()
    def it_lists_what_it_holds(self) -> None:
        assert self.registry.names() == tuple(sorted(self.model))
        assert len(self.registry) == len(self.model)
        assert sorted(self.registry) == sorted(self.model.values())

    @invariant()
    def it_keeps_nothing_of_what_was_removed(self) -> None:
        if not self.model:
            assert not self.registry._endings


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(stateful_step_count=30)
