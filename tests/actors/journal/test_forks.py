"""The stream of a fork, of every recorded run: whole by itself, named anew, and charged once."""

from __future__ import annotations

import pytest
import shown
from shown_cast import CASES

from understudy.actors.agents.chains import chain_of
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.forks import Change, forked
from understudy.actors.journal.replay import replay
from understudy.actors.journal.spends import dated, is_own
from understudy.actors.journal.state import Run, Sub
from understudy.actors.testing.replays import read_history
from understudy.supervisors import tree

pytestmark = pytest.mark.promise(285)

NEW = "12345678"


def recorded(name: str) -> list[Record]:
    return list(read_history(shown.kept(name)).values())[-1]


def fork_of(records: list[Record], at: int, policies: dict[str, Policy]) -> list[Record] | None:
    def pools(run: Run, sub: Sub) -> tuple[str, ...]:
        return chain_of(run, sub, policies)[0].pools

    try:
        return forked(records, at, NEW, pools, Change(), now=(2e9, 5.0), by="")
    except UsageError:
        return None


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_fork_of_a_recorded_run_stands_by_itself_wherever_it_can_be_made(name: str) -> None:
    records, policies = recorded(name), dict(tree.plan(CASES[name].tree()).policies)
    old, made = records[0].run, 0
    for at in range(1, len(records) + 1, 3):
        stream = fork_of(records, at, policies)
        if stream is None:
            continue
        made += 1
        state, before = fold(stream), fold(records[:at])
        assert [record.seq for record in stream] == list(range(1, len(stream) + 1))
        assert {record.run for record in stream} == {NEW}
        under_way = [sub.asking.reserved["steps"] for sub in before.subs.values() if sub.asking is not None]
        assert (state.spend.steps, state.spend.tokens) == (before.spend.steps + sum(under_way), before.spend.tokens)
        assert state.spend.alive == pytest.approx(before.spend.alive)
        charged = [pool for _, pools, _ in dated(stream) for pool in pools]
        assert [pool for pool in charged if not is_own(pool, NEW)] == []
        assert [each for each in (*state.approvals, *state.doubts) if old in each] == []
        assert not any(sub.parked is not None for sub in state.subs.values() if sub.finished is None)
        assert replay(stream, policies).identical
    assert made > 0


def test_a_run_that_is_longer_than_a_fork_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.actors.journal.forks.MOST", 3)
    with pytest.raises(UsageError, match="a fork takes over 3 events at most"):
        forked(recorded("same"), 4, NEW, lambda run, sub: (), Change(), now=(2e9, 5.0), by="")


def test_what_was_breached_in_a_pool_of_all_runs_is_not_breached_again() -> None:
    start: list[ev.AnyEvent] = [
        ev.RunStarted("clerk", "Prompt", '{"text": "go"}'),
        ev.BudgetBreached("desk", "tokens", 7),
        ev.BudgetBreached("clerk@7f3a", "tokens", 7),
    ]
    records = [Record("7f3a", n, 1.0, 1.0, 0, "", 0, 0, event) for n, event in enumerate(start, 1)]
    stream = forked(records, 3, NEW, lambda run, sub: (), Change(), now=(2e9, 5.0), by="")
    assert fold(stream).over == {"desk": {"tokens": 0}, f"clerk@{NEW}": {"tokens": 7}}
