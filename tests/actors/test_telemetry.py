"""What can be seen: bounded, and watching never breaks what is watched."""

import logging

import pytest

from understudy.actors.lifecycle import Exit
from understudy.actors.telemetry import FLIGHT_LENGTH, LETTERS_KEPT, CrashReport, DeadLetter, Telemetry


def test_the_flight_recorder_is_a_ring_and_can_be_filtered_by_actor() -> None:
    now = iter(float(n) for n in range(10_000))
    telemetry = Telemetry(lambda: next(now))
    for n in range(FLIGHT_LENGTH + 10):
        telemetry.flight("even" if n % 2 == 0 else "odd", "beat", str(n))
    assert len(telemetry.flights(last=10_000)) == FLIGHT_LENGTH
    assert telemetry.flights(last=10_000)[0].detail == "10"
    assert [flight.detail for flight in telemetry.flights("odd", last=2)] == ["4103", "4105"]
    assert [flight.at for flight in telemetry.flights(last=1)] == [FLIGHT_LENGTH + 9]


def test_dead_letters_are_all_counted_and_the_last_ones_kept() -> None:
    telemetry = Telemetry(lambda: 0.0)
    for n in range(LETTERS_KEPT + 5):
        telemetry.dead(DeadLetter("a", "", "full", n))
    assert telemetry.letter_count == LETTERS_KEPT + 5
    assert [letter.message for letter in telemetry.dead_letters()] == list(range(5, LETTERS_KEPT + 5))


def test_a_listener_that_raises_is_removed_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry(lambda: 0.0)
    heard: list[object] = []

    def breaks(letter: DeadLetter) -> None:
        raise ValueError("listener")

    telemetry.letters.add(breaks)
    remove = telemetry.letters.add(lambda letter: heard.append(letter.message))
    with caplog.at_level(logging.ERROR, "understudy.actors"):
        telemetry.dead(DeadLetter("a", "", "full", 1))
        telemetry.dead(DeadLetter("a", "", "full", 2))
    assert heard == [1, 2]
    assert caplog.text.count("was removed") == 1
    remove()
    remove()
    telemetry.dead(DeadLetter("a", "", "full", 3))
    assert heard == [1, 2]
    assert not telemetry.letters


def test_a_crash_report_carries_the_actors_last_happenings() -> None:
    telemetry = Telemetry(lambda: 0.0)
    reports: list[CrashReport] = []
    telemetry.crashes.add(reports.append)
    telemetry.flight("a", "started")
    telemetry.flight("b", "started")
    error = ValueError("x")
    telemetry.crash("a", 3, Exit("error", "ValueError: x"), "message", error)
    (report,) = reports
    assert (report.path, report.incarnation, report.error) == ("a", 3, error)
    assert [(flight.path, flight.what) for flight in report.flights] == [("a", "started"), ("a", "crash")]
