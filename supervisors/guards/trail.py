"""What an agent did lately, kept so that a rule can look at the newest act at a cost that does not grow.

A trail takes `Step`s one at a time. It knows of each act whether it is a *copy* (the same call had the same result
before) or *news* (its action never had that result), and finds all acts like the newest one without a walk through the
rest. It holds the last `REACH` acts and no more. What it says depends on these alone.

What counts: equal acts in one model step (a batch) are one, for the agent chose them before it saw an outcome. A world
change clears everything, unless it is the same change with the same result again: that is no change. A result that
differs from an older one of the same call in dates, times, ids and such only is the same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from msgspec import Struct

from understudy.actors.agents.guards import Step
from understudy.supervisors.guards.likeness import ends, masked, same_but_for_volatile, words

Mark = tuple[str, ...]
"""What makes two acts one piece of evidence, under some rule."""

REACH: Final = 128
"""Acts that a trail holds, and that a rule may look back."""


class Entry(Struct, gc=False, eq=False):
    """One counted act.

    `at` numbers the counted acts, `turn` the model steps with one. `outcome` is the step's, or an older one that
    differs in nothing that matters; "" is unknown. `call` is the act without it, `act` with it, `result` the action's
    outcome whatever the arguments, `fault` the action with its masked error (None without); `older_…` is the act before
    with an equal one. `news`: the action had no such outcome before; `told` counts the news up to here. `copy`: the
    same act is older; `streak` counts the copies in a row up to here, without those of tools that poll. `quiet` counts
    the model steps in a row without news and without new talk.
    """

    step: Step
    at: int
    turn: int
    call: Mark
    act: Mark
    result: Mark
    outcome: str
    older_call: Entry | None
    older_act: Entry | None
    older_result: Entry | None
    news: bool
    told: int
    copy: bool
    streak: int
    quiet: int
    fault: Mark | None = None
    older_fault: Entry | None = None
    said: frozenset[str] | None = None
    asked: frozenset[str] | None = None

    def words(self) -> frozenset[str]:
        """The words of the result, or of the talk."""
        if self.said is None:
            self.said = words(self.step.text if self.step.action else ends(self.step.text))
        return self.said

    def asks(self) -> frozenset[str]:
        """The words of the arguments."""
        if self.asked is None:
            self.asked = words(ends(self.step.arguments))
        return self.asked


class Trail:
    """See the module."""

    __slots__ = (
        "_acts",
        "_batch",
        "_calls",
        "_changes",
        "_faults",
        "_results",
        "_taken",
        "cleared",
        "entries",
        "moved",
        "newest",
    )

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.newest: Entry
        """The newest act. There is one, whenever a rule looks."""
        self.moved = 0
        """`Entry.at` of the last news of which nobody knows whether it changed the world: 0 for none."""
        self.cleared = 0
        """How often a world change has cleared it."""
        self._acts: dict[Mark, Entry] = {}
        self._results: dict[Mark, Entry] = {}
        self._calls: dict[Mark, Entry] = {}
        self._faults: dict[Mark, Entry] = {}
        self._changes: dict[Mark, int] = {}
        self._taken = 0
        self._batch: set[Mark] = set()

    def add(self, step: Step) -> bool:
        """Take one more step; whether it counts."""
        self._taken += 1
        call = (step.agent, step.action, step.arguments)
        if step.world and self._changed((*call, step.outcome)):
            self._clear()
        outcome = step.outcome
        known = self._calls.get(call)
        if known is not None and known.outcome != outcome and outcome and step.action:
            outcome = self._older(call, known, step)
        act = (*call, outcome or step.error)
        last = self.newest if self.entries else None
        if last is not None and last.step.step == step.step and last.step.agent == step.agent:
            self._batch.add(last.act)
            if act in self._batch:
                return False
            self._push(step, last, last.turn, call, act, outcome, known)
        else:
            if self._batch:
                self._batch.clear()
            self._push(step, last, last.turn + 1 if last is not None else 1, call, act, outcome, known)
        return True

    def copies(self, entry: Entry, window: int, most: int = REACH) -> list[Entry]:
        """The newest `most` of the acts equal to `entry` among the `window` up to it, oldest first; it is the last."""
        first, found, one = entry.at - window, [entry], entry.older_act
        while one is not None and one.at > first and len(found) < most:
            found.append(one)
            one = one.older_act
        found.reverse()
        return found

    def results(self, entry: Entry, window: int) -> list[Entry]:
        """The acts of the same action with the same outcome among the `window` up to `entry`, oldest first."""
        first, found, one = entry.at - window, [entry], entry.older_result
        while one is not None and one.at > first:
            found.append(one)
            one = one.older_result
        found.reverse()
        return found

    def calls(self, entry: Entry, window: int) -> list[Entry]:
        """The same calls, whatever came of them, among the `window` acts up to `entry`, oldest first."""
        first, found, one = entry.at - window, [entry], entry.older_call
        while one is not None and one.at > first:
            found.append(one)
            one = one.older_call
        found.reverse()
        return found

    def faults(self, entry: Entry, window: int) -> list[Entry]:
        """The acts that failed as `entry` did, whatever was asked, among the `window` up to it, oldest first."""
        first, found, one = entry.at - window, [entry], entry.older_fault
        while one is not None and one.at > first:
            found.append(one)
            one = one.older_fault
        found.reverse()
        return found

    def last(self, count: int) -> Iterator[Entry]:
        """The last `count` acts, oldest first."""
        return islice(self.entries, max(0, len(self.entries) - count), None)

    def __len__(self) -> int:
        return len(self.entries)

    def _push(
        self, step: Step, last: Entry | None, turn: int, call: Mark, act: Mark, outcome: str, known: Entry | None
    ) -> None:
        result = (step.agent, step.action, outcome)
        same, alike = self._acts.get(act), self._results.get(result)
        copy, acts = same is not None, bool(step.action)
        news = acts and not copy and (alike is None or not outcome or (step.unsure and step.blank))
        at, told, streak, quiet = 1, 0, 0, 0
        if last is not None:
            at, told, streak, quiet = last.at + 1, last.told, last.streak, last.quiet
            if turn != last.turn and quiet < REACH:
                quiet += 1
        if news:
            told += 1
            if step.unsure:
                self.moved = at
        if news or not (copy or acts):
            quiet = 0
        if not copy:
            streak = 0
        elif not step.polling and streak < REACH:
            streak += 1
        entry = Entry(step, at, turn, call, act, result, outcome, known, same, alike, news, told, copy, streak, quiet)
        self._calls[call] = self._acts[act] = self._results[result] = self.newest = entry
        self.entries.append(entry)
        if acts and step.error:
            entry.fault = fault = (step.agent, step.action, masked(step.error))
            entry.older_fault = self._faults.get(fault)
            self._faults[fault] = entry
        if at > REACH:
            self._forget(self.entries.popleft())

    def _forget(self, old: Entry) -> None:
        """Drop the oldest act: nothing leads beyond it any more."""
        old.older_act = old.older_call = old.older_result = old.older_fault = None
        if self._acts[old.act] is old:
            del self._acts[old.act]
        if self._results[old.result] is old:
            del self._results[old.result]
        if self._calls[old.call] is old:
            del self._calls[old.call]
        if old.fault is not None and self._faults[old.fault] is old:
            del self._faults[old.fault]

    def _older(self, call: Mark, known: Entry, step: Step) -> str:
        """The outcome of the last call of this kind, if the new one is the same but for what changes each time."""
        if (*call, step.outcome) in self._acts:
            return step.outcome
        one, other = known.step.text, step.text
        return known.outcome if one and other and same_but_for_volatile(one, other) else step.outcome

    def _changed(self, change: Mark) -> bool:
        """Whether a landed change is one: not when the very same was made lately, with the same result."""
        before = self._changes.pop(change, None)
        self._changes[change] = self._taken  # the newest last
        if len(self._changes) > REACH:
            del self._changes[next(iter(self._changes))]
        return before is None or before < self._taken - REACH

    def _clear(self) -> None:
        self.cleared += 1
        self.moved = 0
        self.entries.clear()
        for index in (self._acts, self._results, self._calls, self._faults):
            index.clear()
        self._batch.clear()
