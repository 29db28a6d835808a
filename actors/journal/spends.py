"""What a run spent, when, and in which pools, by its stream; and what others need of it when the run is gone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from understudy.actors.journal import events as ev
from understudy.actors.journal.pruned_events import Carried

SLICE: Final = 86_400.0
"""Seconds of wall time whose spends are carried as one, at the time of the last: a window may count them too long."""

Spent = tuple[float | None, tuple[str, ...], Mapping[str, int]]


def is_own(pool: str, run: str) -> bool:
    """Whether a pool counts this run alone."""
    return pool.endswith(f"@{run}")


def dated(records: Iterable[ev.Record]) -> Iterator[Spent]:
    """(when, in which pools, how much) for all that a run spent; without a time for what is still in flight."""
    asked: dict[str, tuple[tuple[str, ...], Mapping[str, int]]] = {}
    spends: dict[str, Spent] = {}
    calls: dict[tuple[int, int, int], str] = {}
    for record in records:
        event = record.event
        if isinstance(event, ev.ModelAsked):
            asked[event.ticket] = (event.pools, event.reserved)
            spends[event.ticket] = (None, event.pools, event.reserved)
        elif isinstance(event, ev.ModelAnswered | ev.ModelFailed) and event.ticket in asked:
            spends[event.ticket] = (record.at, asked.pop(event.ticket)[0], event.spent)
        elif isinstance(event, ev.ToolAsked):
            spends[event.ticket] = (record.at, event.pools, event.reserved)
            calls[record.sub, event.step, event.index] = event.ticket
        elif isinstance(event, ev.ToolAnswered | ev.ToolFailed) and event.spent is not None:
            ticket = calls[record.sub, event.step, event.index]
            spends[ticket] = (record.at, spends[ticket][1], event.spent)
        elif isinstance(event, ev.SpendCorrected) and event.ticket in spends:
            at, pools, spent = spends[event.ticket]
            spends[event.ticket] = (
                at,
                pools,
                {unit: min(event.spent.get(unit, 0), was) for unit, was in spent.items()},
            )
    yield from spends.values()


class Carry:
    """Adds up what is kept of runs, by pool and slice of time."""

    def __init__(self) -> None:
        self._spends: dict[tuple[str, int], tuple[float, dict[str, int]]] = {}
        self._over: dict[tuple[str, int], tuple[float, dict[str, int]]] = {}

    def take(self, run: str, records: Sequence[ev.Record]) -> None:
        """Take a run in."""
        for at, pools, spent in dated(records):
            for pool in pools:
                if not is_own(pool, run):
                    _add(self._spends, pool, records[-1].at if at is None else at, spent)
        for record in records:
            event = record.event
            if isinstance(event, ev.BudgetBreached) and not is_own(event.pool, run):
                _add(self._over, event.pool, record.at, {event.unit: event.over})

    def kept(self) -> tuple[tuple[Carried, ...], tuple[Carried, ...]]:
        """Spends and breaches, as `Pruned` keeps them."""
        return _told(self._spends), _told(self._over)


Sums = dict[tuple[str, int], tuple[float, dict[str, int]]]


def _add(sums: Sums, pool: str, at: float, amounts: Mapping[str, int]) -> None:
    last, sum_ = sums.get((pool, int(at // SLICE)), (at, {}))
    for unit, amount in amounts.items():
        sum_[unit] = sum_.get(unit, 0) + amount
    sums[pool, int(at // SLICE)] = (max(last, at), sum_)


def _told(sums: Sums) -> tuple[Carried, ...]:
    return tuple(Carried(pool, at, spent) for (pool, _), (at, spent) in sorted(sums.items()))
