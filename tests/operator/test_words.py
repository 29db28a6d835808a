"""The lines of the live view."""

import io
import os
import pty
from contextlib import closing

import pytest

from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.supervisors.operator.live import LiveView, listening, rows
from understudy.supervisors.operator.words import Narrator


def test_a_run_is_told_one_line_a_fact(complete: list[Record]) -> None:
    narrator = Narrator()
    facts = [fact for record in complete for fact in narrator.facts(record)]
    assert [fact.verb for fact in facts] == [
        "Started", "Looped", "Nudged", "Looped", "Restarted", "Finished", "Handed on", "Waiting", "Approved",
    ]  # fmt: skip
    restarted = facts[4]
    assert restarted.who == "inspector-2"
    assert restarted.text == "in 0.5 s · back to step 1 · 4 exchanges → 1 note · temperature 0.7"
    assert facts[7].tail == "understudy approve 7f3a-a1"


def test_the_verb_stands_at_the_right_of_its_columns(complete: list[Record]) -> None:
    narrator = Narrator(opening="audit: planner, inspector ×3")
    line = narrator.facts(complete[0])[0].line()
    assert line.startswith("     Started  planner      audit: planner, inspector ×3")
    assert line.endswith("run 7f3a")


def test_a_line_too_long_for_the_screen_does_not_line_its_end_up(complete: list[Record]) -> None:
    fact = Narrator().facts(complete[0])[0]
    assert fact.line(200) == fact.line()
    assert fact.line(60) == '     Started  planner      Prompt {"text": "audit"}  run 7f3a'


def test_a_sub_run_is_put_into_the_callers_words(complete: list[Record]) -> None:
    narrator = Narrator(describe=lambda agent, output: ("Checked", f"{agent}: {output}"))
    facts = [fact for record in complete for fact in narrator.facts(record)]
    assert ("Checked", 'inspector: {"findings": 4}', "5 steps") in [(f.verb, f.text, f.tail) for f in facts]


def test_a_run_joined_late_is_told_without_its_past(complete: list[Record]) -> None:
    narrator = Narrator()
    verbs = [fact.verb for record in complete[26:] for fact in narrator.facts(record)]
    assert verbs == ["Restarted", "Finished", "Handed on", "Waiting", "Approved"]


def test_an_event_missed_in_between_does_not_end_the_telling(complete: list[Record]) -> None:
    narrator = Narrator()
    verbs = [f.verb for record in complete if record.seq not in (5, 7, 40) for f in narrator.facts(record)]
    assert verbs[-1] == "Approved"


def test_the_past_is_learnt_silently(complete: list[Record]) -> None:
    stream = io.StringIO()
    view = LiveView(stream, plain=True)
    view.learn(complete[:26])
    view(complete[26])
    assert stream.getvalue().startswith("   Restarted  inspector-2  in 0.5 s · back to step 1")
    assert len(stream.getvalue().splitlines()) == 1


def test_without_a_terminal_there_is_no_redraw(complete: list[Record]) -> None:
    stream = io.StringIO()
    with LiveView(stream) as view:
        for record in complete:
            view(record)
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 9


def test_a_closed_pipe_does_not_end_what_is_watched(complete: list[Record]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    view = LiveView(io.TextIOWrapper(io.FileIO(writer, "w", closefd=False), write_through=True), plain=True)
    try:
        view(complete[0])
    finally:
        os.close(writer)


def test_it_listens_only_while_it_is_shown() -> None:
    heard: list[str] = []

    def listen(_: object) -> object:
        heard.append("on")
        return lambda: heard.append("off")

    with listening(LiveView(io.StringIO(), plain=True), listen):  # type: ignore[arg-type]  # the listener is not called
        assert heard == ["on"]
    assert heard == ["on", "off"]


def on_a_terminal(records: list[Record], monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> str:
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    with closing(os.fdopen(follower, "w", encoding="utf-8")) as stream:
        with LiveView(stream, plain=plain) as view:
            for record in records:
                view(record)
            with view.paused():
                pass
        stream.flush()
        found = b""
        try:
            while chunk := os.read(leader, 65_536):
                found += chunk
        except BlockingIOError:
            pass
        os.close(leader)
    return found.decode("utf-8", "replace")


def test_on_a_terminal_there_is_a_panel_below_the_lines(waiting: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    shown = on_a_terminal(waiting[:30], monkeypatch, plain=False)
    assert "Restarted" in shown
    assert "\x1b[" in shown


def test_plain_on_a_terminal_has_no_panel(waiting: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(waiting[:30], monkeypatch, plain=True)
    assert "Restarted" in shown
    assert "\x1b[" not in shown


@pytest.mark.parametrize("room", [1, 2, 8])
def test_the_panel_caps_its_rows_and_counts_the_rest(waiting: list[Record], room: int) -> None:
    lines = rows(fold(waiting), frozenset(), room)
    assert len(lines) == min(room, 2)
    assert lines[0].startswith(" ? reviewer       waiting")
    assert ("1 more complete" in lines[-1]) == (room == 1)
