"""What lies in the journal of every pool, counted event by event from the declared tree alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Began, Evidence, Pot, Written
from understudy.supervisors.testing.books import Amounts, add, within


class Tally:
    """What the journal says of every pool: the amounts of each open intent, and what was spent."""

    def __init__(self, evidence: Evidence) -> None:
        self._declared = evidence.declared
        self._agents: dict[tuple[str, int], str] = {}
        self._parents: dict[tuple[str, int], int] = {}
        self.pots: dict[str, Pot] = {}
        self._spent: dict[str, dict[str, int]] = {}
        self._dated: dict[str, list[tuple[float, Amounts]]] = {}
        self._by_sub: dict[tuple[str, str, int], dict[str, int]] = {}
        self._fresh = True
        self._now = 0.0
        self.tickets: dict[str, tuple[tuple[str, ...], Amounts]] = {}
        self._settled: dict[str, tuple[tuple[str, ...], Amounts]] = {}

    def began(self) -> None:
        """A process began, perhaps with another clock."""
        self._fresh = True

    def take(self, record: Record) -> tuple[str, ...]:
        """Count one event; the pools that it changed."""
        event, key = record.event, (record.run, record.sub)
        self._tick(record.at)
        match event:
            case ev.RunStarted():
                self._agents[key] = event.agent
            case ev.SubStarted():
                self._agents[key], self._parents[key] = event.agent, event.parent
            case ev.HandedOff():
                self._agents[key] = event.to
            case ev.ModelAsked():
                pools = self.chain(*key)
                self.tickets[event.ticket] = (pools, event.reserved)
                return pools
            case ev.ModelAnswered() | ev.ModelFailed():
                pools, _ = self.tickets.pop(event.ticket, ((), {}))
                self._settled[event.ticket] = (pools, event.spent)
                self._spend(pools, event.spent, key)
                return pools
            case ev.SpendCorrected():
                pools, was = self._settled.pop(event.ticket, ((), {}))
                self._spend(pools, {unit: event.spent.get(unit, 0) - amount for unit, amount in was.items()}, key)
                return pools
            case ev.ToolAsked():
                pools = self.chain(*key)
                self._spend(pools, {"tool_calls": 1, f"tool:{event.name}": 1}, key)
                return pools
            case _:
                pass
        return ()

    def _tick(self, at: float) -> None:
        """Time stands still where the clock goes back, except between two processes."""
        if self._fresh and at < self._now:
            self._dated = {pool: [(min(when, at), each) for when, each in many] for pool, many in self._dated.items()}
            self._now = at
        self._fresh = False
        self._now = max(self._now, at)

    def _spend(self, pools: Sequence[str], amounts: Amounts, key: tuple[str, int]) -> None:
        for pool in pools:
            add(self._by_sub.setdefault((pool, *key), {}), amounts)
            if self.pots[pool].window is None:
                add(self._spent.setdefault(pool, {}), amounts)
            else:
                self._dated.setdefault(pool, []).append((self._now, amounts))

    def spent(self, pool: str) -> dict[str, int]:
        """What was spent of a pool, in its window where it has one."""
        pot = self.pots.get(pool)
        if pot is None or pot.window is None:
            return self._spent.get(pool, {})
        return within(self._dated.get(pool, ()), self._now - pot.window)

    def spent_by(self, pool: str, run: str, sub: int) -> dict[str, int]:
        """What one (sub-)run spent of a pool."""
        return self._by_sub.get((pool, run, sub), {})

    def held(self, pool: str) -> dict[str, int]:
        """What open intents hold of a pool."""
        total: dict[str, int] = {}
        for pools, amounts in self.tickets.values():
            if pool in pools:
                add(total, amounts)
        return total

    def chain(self, run: str, sub: int) -> tuple[str, ...]:
        """The pools of a (sub-)run: of its agent up to the root, and of those that asked for it."""
        return tuple(self.distances(run, sub))

    def distances(self, run: str, sub: int) -> dict[str, int]:
        """The same, each with the number of delegations from the first (sub-)run that is charged to it."""
        keys: dict[str, int] = {}
        distance = 0
        while sub >= 0 and (run, sub) in self._agents:
            declared = self._declared.get(self._agents[run, sub])
            for pot in declared.pots if declared is not None else ():
                keys[pot.key(run)] = distance
                self.pots[pot.key(run)] = pot
            sub, distance = self._parents.get((run, sub), -1), distance + 1
        return keys


def tallied(evidence: Evidence) -> Iterator[tuple[Tally, Record, tuple[str, ...]]]:
    """Every event of the journal after it was counted, with the pools that it changed."""
    tally = Tally(evidence)
    for each in evidence.happened:
        if isinstance(each, Began):
            tally.began()
        for record in each.records if isinstance(each, Written) else ():
            yield tally, record, tally.take(record)
