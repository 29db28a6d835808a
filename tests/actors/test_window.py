"""The context window, as `decide` sees it: whatever happens in a run, and whatever the rules are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import Play, make_policy

from understudy.actors.agents import commands as cmd
from understudy.actors.agents.context import request_of
from understudy.actors.agents.decide import decide
from understudy.actors.agents.models import ChatMessage, ModelRequest, input_cap
from understudy.actors.agents.window import ContextWindow, DropFailed, Rule, Slide, Summarise, Trim
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.replay import replay
from understudy.actors.journal.view import View

LIMIT = 3_000
few = st.integers(1, 5)
rules: st.SearchStrategy[Rule] = st.one_of(
    st.builds(DropFailed, keep=few),
    st.builds(Trim, over=st.integers(400, 3_000), head=st.integers(0, 200), tail=st.integers(0, 150)),
    st.builds(Slide, keep=few),
    st.builds(Summarise, keep=few, max_tokens=st.integers(1, 60), input=st.none() | st.integers(50, 800)),
)
windows = st.builds(
    ContextWindow,
    tokens=st.integers(600, LIMIT),
    compact=st.lists(rules, max_size=4).filter(lambda held: sum(isinstance(r, Summarise) for r in held) < 2),
    at=st.floats(0.6, 1.0),
    to=st.floats(0.1, 0.5),
    pins=st.lists(st.sampled_from(["Never pay.", "Speak plainly.", "No äöü ☂."]), max_size=2),
    first=st.integers(0, 3),
)
ratios = st.sampled_from([0.15, 0.25, 0.4, 0.6, 1.0])


class Watched:
    """A run being played, with a look at every request that would leave."""

    def __init__(
        self, window: ContextWindow, seed: int, ratio: float = 0.25, replies: Sequence[str] = (), result: str = ""
    ) -> None:
        dice = random.Random(seed)
        self.requests: list[tuple[ModelRequest, int]] = []
        rest = list(replies)

        def choose(what: str, options: Sequence[str]) -> str:
            if what == "reply" and rest:
                return rest.pop(0)
            if what == "result" and result:
                return result
            weights = [4 if what == "reply" and option not in ("answer", "fail") else 1 for option in options]
            return dice.choices(options, weights)[0]

        self.policy = make_policy(window=window)
        if replies:  # the guard would object to many equal ones
            self.policy = replace(self.policy, loops=None)
        self.play = Play(self.policy, choose, ratio=ratio, look=self.look)

    def look(self, command: cmd.Command) -> None:
        main = self.play.state.main
        if isinstance(command, cmd.Compact | cmd.CallModel):
            assert not any(turn.open for turn in main.turns), "a call that is waited for is being passed over"
        if isinstance(command, cmd.CallModel) and not command.covers:
            request = request_of("t0", main, self.policy)
            assert command.size == input_cap(request)
            self.requests.append((request, main.view.counted))

    def run(self) -> Watched:
        self.play.run(commands=120)
        return self

    @property
    def compactions(self) -> list[ev.Compacted]:
        return [r.event for r in self.play.records if isinstance(r.event, ev.Compacted)]

    @property
    def summaries(self) -> list[ev.ModelAsked]:
        return [r.event for r in self.play.records if isinstance(r.event, ev.ModelAsked) and r.event.covers]


def check_pairs(messages: Sequence[ChatMessage]) -> None:
    """Every call is followed at once by all results of its reply, in order, and no result stands alone."""
    due: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert due, "a result without its call"
            assert message.call_id == due.pop(0)
        else:
            assert not due, "a call without its results"
            due = [call.id for call in message.calls]
    assert not due


@pytest.mark.promise(225)
@given(windows, st.integers(0, 2**32), ratios)
def test_pins_stay_whatever_the_rules_do_and_calls_keep_their_results(
    window: ContextWindow, seed: int, ratio: float
) -> None:
    watched = Watched(window, seed, ratio).run()
    pinned = [ChatMessage("system", text) for text in ("Do it.", *window.pins)]
    for request, _ in watched.requests:
        assert list(request.messages[: len(pinned)]) == pinned
        assert request.messages.count(ChatMessage("user", "go")) == 1
        check_pairs(request.messages)


@pytest.mark.promise(226)
@given(windows, st.integers(0, 2**32), ratios)
def test_no_request_is_larger_than_the_window_once_the_provider_has_counted(
    window: ContextWindow, seed: int, ratio: float
) -> None:
    assert window.tokens is not None
    watched = Watched(window, seed, ratio).run()
    for request, counted in watched.requests:
        if counted:
            assert input_cap(request) * ratio <= window.tokens + 1
    end = watched.play.state.finished
    if end is not None and end.reason.startswith("context window"):
        assert end.status == "failed"


@pytest.mark.promise(225)
@given(windows.filter(lambda window: window.first > 0), st.integers(0, 2**32))
def test_the_first_exchanges_that_are_kept_stay_word_for_word(window: ContextWindow, seed: int) -> None:
    watched = Watched(window, seed)
    firsts: dict[str, tuple[ChatMessage, ...]] = {}

    def look(command: cmd.Command) -> None:
        main = watched.play.state.main
        if main.restart is not None or main.attempt > 1:
            firsts.clear()  # a rewind takes exchanges back, whichever they are
            return
        shown = [item for item in main.view.items if item.kind == "exchange"][: window.first]
        for item in shown:
            assert firsts.setdefault(item.origin, item.messages) == item.messages or item.failed
        assert set(firsts) <= {item.origin for item in shown}

    watched.play.look = look
    watched.run()


@pytest.mark.promise(227)
@given(windows, st.integers(0, 2**32), ratios)
def test_replay_compacts_identically_and_a_fold_makes_the_same_window(
    window: ContextWindow, seed: int, ratio: float
) -> None:
    watched = Watched(window, seed, ratio).run()
    records = watched.play.records
    assert replay(records, {"clerk": watched.policy}).identical
    assert fold(records) == watched.play.state


@given(windows, st.integers(0, 2**32))
def test_the_sums_are_those_of_a_view_made_anew(window: ContextWindow, seed: int) -> None:
    watched = Watched(window, seed)

    def look(command: cmd.Command) -> None:
        view = watched.play.state.main.view
        anew = View.of(view.items, view.next)
        assert (view.size, view.messages, view.marks) == (anew.size, anew.messages, anew.marks)
        assert len({item.number for item in view.items}) == len(view.items)

    watched.play.look = look
    watched.run()


def test_the_generator_reaches_every_rule_and_every_end_of_a_summary() -> None:
    window = ContextWindow(900, compact=[DropFailed(), Trim(600, 100, 50), Summarise(keep=2, max_tokens=20), Slide(2)])
    names: set[str] = set()
    ends: set[str] = set()
    for seed in range(40):
        watched = Watched(window, seed)

        def look(command: cmd.Command, watched: Watched = watched) -> None:
            view = watched.play.state.main.view
            failures = view.summary_failures
            ends.update({"summary"} & {item.kind for item in view.items})
            ends.add("refused" if failures >= 1_000 else "failed" if failures else "summary")

        watched.play.look = look
        watched.run()
        names |= {event.rule for event in watched.compactions}
    assert names == {"DropFailed", "Trim", "Slide"}
    assert ends == {"summary", "refused", "failed"}


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_room_for_tokens_is_the_largest_size_that_is_estimated_so(
    size: int, counted: int, tokens: int, other: int
) -> None:
    view = View()
    if counted:
        view.count(counted, size)
    room = view.room(tokens)
    assert view.tokens(room) <= tokens
    assert view.tokens(room + 10) >= tokens
    small, large = sorted((other, size))
    assert view.tokens(small) <= view.tokens(large) <= large


# --- the rules, one by one -------------------------------------------------------------------------------


LOOKS = ["look"] * 30


def test_a_window_that_is_large_enough_leaves_everything_as_it_is() -> None:
    watched = Watched(ContextWindow(100_000), 1, replies=["looks", "look", "nonsense", "answer"]).run()
    assert watched.compactions == []
    last = watched.requests[-1][0].messages
    assert [m.role for m in last[:2]] == ["system", "user"]
    assert sum(m.role == "assistant" for m in last) == len(watched.requests) - 1


def test_slide_drops_the_oldest_exchanges_and_says_how_many() -> None:
    watched = Watched(ContextWindow(800, compact=[Slide(keep=2)]), 1, replies=[*LOOKS, "answer"], result="long").run()
    assert watched.play.state.finished is not None
    assert watched.compactions
    left = 0
    for event in watched.compactions:
        told = int(event.text.removeprefix("[").partition(" ")[0])
        assert told > left
        left = told
        assert event.left <= event.tokens
    gaps = [m for m in watched.requests[-1][0].messages if m.content.endswith("earlier exchanges were left out.]")]
    assert [m.content for m in gaps] == [watched.compactions[-1].text]


def test_drop_failed_leaves_what_worked_and_names_what_did_not() -> None:
    def choose(what: str, options: Sequence[str]) -> str:
        if what == "reply":
            return replies.pop(0)
        if what == "outcome":
            return outcomes.pop(0)
        return {"result": "long"}.get(what, options[0])

    replies = ["look", "nonsense", "look", "put", "put", "look", "answer"]
    outcomes = ["error", "ok", "ok", "ok", "ok"]
    policy = make_policy(window=ContextWindow(1_300, compact=[DropFailed(keep=1)]), loops=None)
    play = Play(policy, choose)
    play.run()
    [event] = [r.event for r in play.records if isinstance(r.event, ev.Compacted)]
    assert event.rule == "DropFailed"
    assert event.text == (
        '[2 failed exchanges were left out: look({"what": "a"}) -> error: OSError: no; an answer that was not valid]'
    )
    shown = request_of("t0", play.state.main, policy).messages
    assert sum(m.role == "tool" for m in shown) == 4


def test_trim_shortens_a_result_and_offers_the_tool_that_reads_it_back() -> None:
    def choose(what: str, options: Sequence[str]) -> str:
        if what == "reply":
            return replies.pop(0)
        return {"result": "huge"}.get(what, options[0])

    replies = ["look", "look", "answer"]
    policy = make_policy(window=ContextWindow(6_000, compact=[Trim()]))
    play = Play(policy, choose)
    names: list[list[str]] = []

    def look(command: cmd.Command) -> None:
        if isinstance(command, cmd.CallModel):
            names.append([tool.name for tool in request_of("t0", play.state.main, policy).tools])

    play.look = look
    play.run()
    first = next(r.event for r in play.records if isinstance(r.event, ev.Compacted))
    [cut] = first.cuts
    whole = next(r.event for r in play.records if isinstance(r.event, ev.ToolAnswered)).result
    shown = play.state.main.view.items[1].messages[1].content
    assert shown.startswith(whole[: cut.head])
    assert shown.endswith(whole[-cut.tail :])
    assert f'read_spilled(id="t0/0:1.0", offset={cut.head})' in shown
    assert str(len(whole) - cut.head - cut.tail) in shown
    assert names[0] == ["look", "put", "send"]
    assert names[-1] == ["look", "put", "send", "read_spilled"]


def test_a_batch_of_results_too_large_together_is_made_to_fit_though_none_is_large_alone() -> None:
    def choose(what: str, options: Sequence[str]) -> str:
        if what == "reply":
            return replies.pop(0)
        return {"result": "long"}.get(what, options[0])

    replies = ["mixed", "answer"]
    policy = make_policy(window=ContextWindow(2_400))
    play = Play(policy, choose, ratio=0.5)
    play.run()
    assert play.state.finished is not None
    assert play.state.finished.status == "complete"
    assert any(isinstance(r.event, ev.Compacted) and r.event.rule == "Trim" for r in play.records)


def test_a_summary_takes_the_place_of_what_it_covers_and_is_itself_summarised_later() -> None:
    window = ContextWindow(900, compact=[Summarise(keep=1, max_tokens=20)])
    watched = Watched(window, 4, replies=[*LOOKS, "answer"], result="long").run()
    assert len(watched.summaries) > 2
    shown = watched.requests[-1][0].messages
    assert [m.content for m in shown if m.content.startswith("Summary")] == [
        "Summary of what came before:\nso far so good"
    ]
    covered = [range(first, last + 1) for event in watched.summaries for first, last in event.covers]
    assert len({n for span in covered for n in span}) == sum(map(len, covered)), "what was summarised is gone"
    assert covered[0][0] == 1


def test_a_past_that_fits_nowhere_is_summarised_in_pieces() -> None:
    def choose(what: str, options: Sequence[str]) -> str:
        if what == "reply":
            return replies.pop(0)
        return {"result": "huge", "summary": "short"}.get(what, options[0])

    replies = ["look", "answer"]
    policy = make_policy(window=ContextWindow(2_000, compact=[Summarise(keep=1, input=500), Trim()]))
    play = Play(policy, choose, ratio=0.5)
    sizes: list[int] = []

    def look(command: cmd.Command) -> None:
        if isinstance(command, cmd.CallModel) and command.covers:
            sizes.append(play.state.main.view.tokens(command.size))

    replies[:0] = ["look", "look", "look"]
    play.look = look
    play.run()
    assert play.state.finished is not None
    assert play.state.finished.status == "complete"
    assert all(size <= 500 + 250 for size in sizes)  # the prompt itself comes on top


def test_summaries_end_with_their_budget_and_another_rule_makes_room() -> None:
    window = ContextWindow(900, compact=[Summarise(keep=2, max_tokens=20, budget=1_200), Slide(2)])
    watched = Watched(window, 5, replies=[*LOOKS, "answer"], result="long").run()
    assert watched.summaries
    assert watched.play.state.main.view.summary_tokens <= 1_200
    assert "Slide" in {event.rule for event in watched.compactions}


@pytest.mark.promise(228)
def test_pins_that_are_too_large_alone_end_the_run_before_a_byte_is_sent_and_name_the_sizes() -> None:
    policy = make_policy(window=ContextWindow(100, pins=["Never. " * 100]), instructions="Do it well. " * 100)
    play = Play(policy, lambda what, options: options[0])
    play.run()
    assert play.state.finished is not None
    assert play.state.finished.status == "failed"
    assert play.state.finished.reason == (
        "context window: about 642 tokens where 100 fit: instructions and pins 483, the request 4, tools and schema"
        " 154, and 0 of exchanges that no rule of the window makes smaller"
    )
    assert not any(isinstance(r.event, ev.ModelAsked) for r in play.records)


def test_what_no_rule_makes_smaller_is_named_with_its_size() -> None:
    watched = Watched(ContextWindow(700, compact=[]), 1, ratio=0.25, replies=[*LOOKS, "answer"]).run()
    end = watched.play.state.finished
    assert end is not None
    assert end.reason.startswith("context window: about ")
    assert end.reason.endswith("of exchanges that no rule of the window makes smaller")


def test_a_rule_of_the_users_own_may_not_touch_what_is_pinned() -> None:
    class Greedy:
        def plan(self, window: object) -> object:
            from understudy.actors.agents.window import Smaller

            return Smaller(dropped=((0, 10**4),))

    watched = Watched(ContextWindow(700, compact=[Greedy()]), 1, replies=[*LOOKS, "answer"])  # type: ignore[list-item]  # loose
    watched.run()
    assert watched.compactions == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ContextWindow(0), "ContextWindow: tokens 0: a whole number, at least 1"),
        (lambda: ContextWindow(10, at=1.5), "ContextWindow: to 0.5 and at 1.5: parts of the window, 0 < to < at <= 1"),
        (lambda: ContextWindow(10, at=0.5), "ContextWindow: to 0.5 and at 0.5: parts"),
        (lambda: ContextWindow(10, first=-1), "ContextWindow: first -1: a whole number, at least 0"),
        (lambda: ContextWindow(10, pins="Never."), "ContextWindow: pins 'Never.': a list of texts"),
        (lambda: ContextWindow(10, pins=[" "]), "ContextWindow: pins [' ']: a list of texts that are not empty"),
        (lambda: ContextWindow(10, compact=[Trim]), "which is no rule, such as Trim() or Slide()"),  # type: ignore[list-item]
        (
            lambda: ContextWindow(10, compact=[Summarise(), Summarise()]),
            "ContextWindow: compact holds more than one Summarise",
        ),
        (lambda: Trim(100, 60, 40), "Trim: head 60 + tail 40 is not less than over 100"),
        (lambda: Slide(0), "Slide: keep 0: a whole number, at least 1"),
        (lambda: DropFailed(True), "DropFailed: keep True: a whole number, at least 1"),
        (lambda: Summarise(max_tokens=0), "Summarise: max_tokens 0: a whole number, at least 1"),
        (lambda: Summarise(input=0), "Summarise: input 0: a whole number, at least 1"),
        (lambda: Summarise(budget=0), "Summarise: budget 0: a whole number, at least 1"),
    ],
)
def test_a_mistake_is_one_error_that_names_value_and_place(make: object, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        make()  # type: ignore[operator]
    assert text in str(caught.value)


def test_decide_does_not_change_the_state_it_looks_at() -> None:
    watched = Watched(ContextWindow(700), 2, replies=LOOKS)
    watched.play.run(commands=25)
    before = fold(watched.play.records)
    decide(watched.play.state, watched.play.state.main, watched.policy)
    assert watched.play.state == before
