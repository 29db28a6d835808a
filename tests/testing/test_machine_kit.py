"""The machine over actors: an example as a user writes it, what it finds, and what it cleans up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import planted
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from understudy import Actor, Message, Ref, System
from understudy.actors.errors import UsageError
from understudy.actors.testing import report
from understudy.actors.testing.machine import ActorMachine
from understudy.actors.testing.properties import always, campaign
from understudy.actors.testing.report import Falsified

FEW = settings(
    max_examples=50,
    stateful_step_count=10,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class Books(ActorMachine):
    """What the bank has paid is never more than what it was asked to pay."""

    messages = {"bank": st.builds(planted.Pay, cents=st.integers(1, 9), key=st.sampled_from(["a", "b"]))}

    async def begin(self, stack: AsyncExitStack) -> Mapping[str, Ref[Any]]:
        self.paid: dict[str, int] = {}
        system = await stack.enter_async_context(System())
        return {"bank": system.spawn(lambda: planted.Bank(self.paid), name="bank")}

    async def healthy(self) -> None:
        assert set(self.paid) <= {"a", "b"}


TestBooks = Books.TestCase
TestBooks.settings = FEW


def run(machine: type[ActorMachine]) -> None:
    run_state_machine_as_test(machine, settings=FEW)


@pytest.mark.promise(181)
def test_a_crash_that_a_reply_depends_on_is_found_with_the_fewest_steps() -> None:
    class Replies(Books):
        messages = Books.messages

        def answered(self, to: str, message: Message[Any], outcome: object) -> None:
            assert not isinstance(outcome, Exception), f"{to} was asked and {outcome}"

    with pytest.raises(AssertionError, match="bank was asked and") as caught:
        run(Replies)
    steps = "\n".join(caught.value.__notes__)
    assert steps.count("state.crash(") == steps.count("state.ask(") == 1
    assert steps.count("state.advance(") == steps.count("state.tell(") == steps.count("state.hold(") == 0


def test_what_is_always_so_is_checked_after_each_step() -> None:
    class Thrifty(Books):
        messages = Books.messages

        async def begin(self, stack: AsyncExitStack) -> Mapping[str, Ref[Any]]:
            refs = await super().begin(stack)
            always("cents", lambda: sum(self.paid.values()) < 9)
            return refs

    with pytest.raises(Falsified, match="always 'cents'") as caught:
        run(Thrifty)
    assert "run the steps of the machine again" in caught.value.page
    assert "sim-replay" not in caught.value.page


class Hello(Message[None]):
    pass


class Stuck(Actor[Hello]):
    """Its second handler never ends."""

    seen = 0

    async def hello(self, m: Hello) -> None:
        self.seen += 1
        if self.seen == 2:
            await asyncio.Event().wait()


def test_a_message_that_lies_before_a_busy_actor_is_no_breach_but_an_ask_without_end_is() -> None:
    class Asks(ActorMachine):
        messages = {"stuck": st.builds(Hello)}
        crashes = False
        settle = 1.0

        async def begin(self, stack: AsyncExitStack) -> Mapping[str, Ref[Any]]:
            system = await stack.enter_async_context(System(grace=1))
            return {"stuck": system.spawn(Stuck, name="stuck")}

    with pytest.raises(Falsified, match=r"liveness: an ask of stuck \(Hello\) has not ended"):
        run(Asks)


def test_real_clocks_are_back_between_the_rules_and_worlds_are_counted() -> None:
    seen: list[float] = []

    class Looks(Books):
        messages = Books.messages

        def answered(self, to: str, message: Message[Any], outcome: object) -> None:
            seen.append(time.time())

    with campaign() as counts:
        run(Looks)
    assert counts.worlds >= 10
    assert counts.fired["Crash"] > 0
    assert seen
    assert abs(seen[-1] - time.time()) < 600
    assert report.last is not None


def test_a_machine_without_messages_or_with_a_ref_missing_says_so() -> None:
    class Nothing(ActorMachine):
        pass

    with pytest.raises(UsageError, match=r"Nothing\.messages"):
        Nothing()

    class Missing(Books):
        messages = {**Books.messages, "ghost": st.builds(Hello)}

    with pytest.raises(UsageError, match="no ref for ghost"):
        run(Missing)
