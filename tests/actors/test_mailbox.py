"""The mailbox against a naive model, under random events."""

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudy.actors.errors import SpecError
from understudy.actors.mailbox import CONTROL_LIMIT, Mailbox, MailboxStatistics, Overflow


class MailboxMachine(RuleBasedStateMachine):
    """Work and waiting senders are plain lists here; each entry is a number of its own."""

    @initialize(limit=st.integers(1, 4), overflow=st.sampled_from(["refuse", "drop_newest", "drop_oldest"]))
    def begin(self, limit: int, overflow: Overflow) -> None:
        self.box: Mailbox[int] = Mailbox(limit, overflow)
        self.limit, self.overflow = limit, overflow
        self.work: list[int] = []
        self.control: list[int] = []
        self.waiting: list[int] = []
        self.gone: set[int] = set()  # senders that do not want their place any more, and did not say so
        self.given: list[int] = []
        self.expected: list[int] = []
        self.refused: list[int] = []
        self.expected_refused: list[int] = []
        self.dropped = 0
        self.next = 0

    def _entry(self) -> int:
        self.next += 1
        return self.next

    def _room(self) -> None:
        while self.waiting and len(self.work) < self.limit:
            entry = self.waiting.pop(0)
            if entry not in self.gone:
                self.work.append(entry)
                self.expected.append(entry)

    @rule()
    def offer(self) -> None:
        entry = self._entry()
        outcome = self.box.offer(entry)
        if len(self.work) < self.limit and not self.waiting:
            self.work.append(entry)
            assert outcome == ("taken", None)
        elif self.overflow == "refuse":
            assert outcome == ("full", None)
        elif self.overflow == "drop_newest":
            self.dropped += 1
            assert outcome == ("dropped", entry)
        else:
            self.dropped += 1
            assert outcome == ("taken", self.work.pop(0))
            self.work.append(entry)

    @precondition(lambda self: self.overflow == "refuse" and len(self.work) >= self.limit)
    @rule()
    def wait(self) -> None:
        entry = self._entry()

        def settle(given: bool) -> bool:
            if not given:
                self.refused.append(entry)
                return False
            if entry in self.gone:
                return False
            self.given.append(entry)
            return True

        self.box.wait_for_room(entry, settle)
        self.waiting.append(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), says=st.booleans())
    def a_sender_gives_up(self, data: st.DataObject, says: bool) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        if says:
            self.box.give_up(entry)
            self.waiting.remove(entry)
            self._room()
        else:
            self.gone.add(entry)

    @rule()
    def take(self) -> None:
        got = self.box.take()
        if self.control:
            assert got == self.control.pop(0)
        elif self.work:
            assert got == self.work.pop(0)
            self._room()
        else:
            assert got is None

    @rule()
    def take_work(self) -> None:
        got = self.box.take_work()
        assert got == (self.work.pop(0) if self.work else None)
        if got is not None:
            self._room()

    @rule()
    def control_overtakes(self) -> None:
        entry = self._entry()
        assert self.box.put_control(entry)
        self.control.append(entry)

    @rule()
    def take_control(self) -> None:
        assert self.box.take_control() == (self.control.pop(0) if self.control else None)

    @rule()
    def force(self) -> None:
        entry = self._entry()
        self.box.force(entry)
        self.work.append(entry)

    @rule(divisor=st.integers(2, 4))
    def withdraw(self, divisor: int) -> None:
        out = self.box.withdraw(lambda entry: entry % divisor == 0)
        assert out == [entry for entry in self.work + self.waiting if entry % divisor == 0]
        self.expected_refused += [entry for entry in self.waiting if entry % divisor == 0]
        self.work = [entry for entry in self.work if entry % divisor]
        self.waiting = [entry for entry in self.waiting if entry % divisor]
        self._room()

    @rule()
    def clear_control(self) -> None:
        self.box.clear_control()
        self.control.clear()

    @rule()
    def drain(self) -> None:
        assert list(self.box.drain()) == self.work
        self.expected_refused += self.waiting
        self.work, self.control, self.waiting = [], [], []

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "box"):
            return
        counts = MailboxStatistics(len(self.work), len(self.control), len(self.waiting), self.dropped, self.limit)
        assert self.box.statistics() == counts
        assert len(self.box) == len(self.work) + len(self.control)
        assert bool(self.box) == bool(self.work or self.control)
        assert (self.box.has_work, self.box.has_control) == (bool(self.work), bool(self.control))
        assert self.given == self.expected
        assert self.refused == self.expected_refused


TestMailbox = MailboxMachine.TestCase
TestMailbox.settings = settings(stateful_step_count=30)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_mailbox_has_room_for_one_at_least(limit: int) -> None:
    with pytest.raises(SpecError, match=f"mailbox limit {limit}: at least 1"):
        Mailbox[Any](limit)


def test_the_control_lane_is_bounded_unless_something_else_bounds_it() -> None:
    box: Mailbox[int] = Mailbox()
    assert all(box.put_control(n) for n in range(CONTROL_LIMIT))
    assert not box.put_control(-1)
    assert box.statistics().dropped == 1
    assert box.put_control(-2, bounded=False)
    got = deque(iter(box.take_control, None), maxlen=1)
    assert got.pop() == -2
