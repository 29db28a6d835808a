"""The usual mistakes of a tree are named; trees that are right are left alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import Actor, Backoff, ChildSpec, DynamicSupervisor, Intensity, Message, Supervisor, System
from understudy.actors.lifecycle import Exit
from understudy.supervisors.intensity import RestartWindow
from understudy.supervisors.lint import check, rates
from understudy.supervisors.supervisor import SupervisorActor


class Go(Message[None]):
    pass


class Stays(Actor[Go]):
    def go(self, m: Go) -> None:
        self.context.after(1.0, m)


class Ends(Actor[Go]):
    def go(self, m: Go) -> None:
        self.context.stop()


class EndsAtOnce(Actor[Go]):
    async def on_start(self) -> None:
        self.context.stop()

    def go(self, m: Go) -> None: ...


class EndsBadly(Actor[Go]):
    def go(self, m: Go) -> None:
        self.context.stop(Exit("error", "no more"))


def transient(child: Any = Stays, **options: Any) -> ChildSpec[Any]:
    return ChildSpec(child, restart="transient", **options)


def temporary(child: Any = Stays, **options: Any) -> ChildSpec[Any]:
    return ChildSpec(child, restart="temporary", **options)


AB = (ChildSpec(Stays, name="a"), ChildSpec(Stays, name="b"))
NEVER = Backoff(first=10.0, jitter=0.0)


@pytest.mark.promise(54)
@pytest.mark.parametrize(
    ("tree", "place", "code"),
    [
        (Supervisor("s", [Ends]), "s/ends", "permanent-ends"),
        (Supervisor("s", [EndsAtOnce]), "s/endsatonce", "permanent-ends"),
        (Supervisor("s", [DynamicSupervisor("d", ChildSpec(Ends))]), "s/d", "permanent-ends"),
        (Supervisor("s", [temporary(count=3)]), "s/stays", "temporary-pool"),
        (Supervisor("s", [ChildSpec(SupervisorActor, name="x")]), "s/x", "finite-shutdown"),  # type: ignore[arg-type]
        (Supervisor("s", AB, backoff=NEVER), "s", "never-trips"),
        (Supervisor("s", AB, intensity=Intensity(0)), "s", "always-trips"),
        (Supervisor("s", [DynamicSupervisor("d", Stays, intensity=Intensity(0))]), "s/d", "always-trips"),
        (Supervisor("s", [transient(intensity=Intensity(10, 5))]), "s/stays", "layer-unused"),
        (Supervisor("s", AB, intensity=Intensity(60, 5), backoff=Backoff(first=0.0)), "s", "swapped"),
        (Supervisor("s", [Stays], strategy="one_for_all"), "s", "group-of-one"),
        (Supervisor("s", [Supervisor("t", AB, restart="transient")]), "s/t", "transient-supervisor"),
        (Supervisor("s", [DynamicSupervisor("t", Stays, restart="transient")]), "s/t", "transient-supervisor"),
        (Supervisor("s", AB, auto_shutdown="any_significant"), "s", "nothing-significant"),
        (
            Supervisor("s", [Supervisor("t", [transient(significant=True)], auto_shutdown="any_significant")]),
            "s/t",
            "permanent-auto-shutdown",
        ),
        (Supervisor("s", [temporary(), AB[0]], strategy="one_for_all"), "s/stays", "forgotten-in-group"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_cure(tree: Supervisor, place: str, code: str) -> None:
    (finding,) = check(tree)
    assert (finding.place, finding.code) == (place, code)
    assert finding.text
    assert finding.cure


@pytest.mark.promise(54)
@pytest.mark.parametrize(
    "tree",
    [
        Supervisor("s", [Stays]),
        Supervisor("s", [transient(Ends), EndsBadly, *AB], strategy="rest_for_one"),
        Supervisor("s", [Supervisor("t", AB), DynamicSupervisor("d", Ends)]),
        Supervisor("s", [transient(intensity=Intensity(2, 5))], intensity=Intensity(60, within=3600)),
        Supervisor("s", [temporary()], intensity=Intensity(0)),
        Supervisor("s", [transient(significant=True)], auto_shutdown="all_significant"),
    ],
)
def test_a_tree_without_mistakes_has_no_findings(tree: Supervisor) -> None:
    assert check(tree) == ()


@pytest.mark.promise(54)
@given(st.integers(0, 40), st.floats(0.1, 100), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([1.0, 1.5, 2.0]))
def test_when_a_supervisor_gives_up_is_what_its_window_says(n: int, within: float, first: float, factor: float) -> None:
    intensity = Intensity(n, within)
    backoff = Backoff(first=first, factor=factor, cap=5.0, jitter=0.0, healthy=1e6)
    window, now, failures = RestartWindow(intensity), 0.0, 0
    while failures <= n and window.admit(now):
        now += backoff.delay(failures, 0.5)
        failures += 1
    said = rates(intensity, backoff).gives_up_after
    if said is None or abs(now - within) < 1e-6:
        assert failures > n or abs(now - within) < 1e-6
    else:
        assert failures == n
        assert said == pytest.approx(now)


def test_rates_are_said_in_a_sentence() -> None:
    assert str(rates(Intensity(3, 5), Backoff(first=0.5, jitter=0.0))) == (
        "3 restarts at once, 0.6 per second for ever; a child that always fails at once makes it give up after 3.5 s"
    )
    assert str(rates(Intensity(3, 5), NEVER)).endswith("makes it give up never")


@pytest.mark.promise(54)
def test_a_system_says_each_finding_once_when_it_starts(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with System(Supervisor("s", [Ends])):
            pass

    with caplog.at_level(logging.WARNING, "understudy.actors"):
        asyncio.run(main())
    (told,) = [record for record in caplog.records if hasattr(record, "code")]
    assert told.getMessage() == (
        "s/ends: it ends itself with `self.context.stop()`, and is restarted each time because it is permanent;"
        ' restart="transient"'
    )
    assert (vars(told)["code"], vars(told)["place"]) == ("permanent-ends", "s/ends")
