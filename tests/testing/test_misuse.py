"""What is given to the testing kit by mistake is one clear error: it names the value and the place."""

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import strategies as st

from understudy import Agent, OpenAIChat, Prompt, Supervisor, System, tool
from understudy.actors.errors import UsageError
from understudy.actors.testing import report
from understudy.actors.testing.machine import ActorMachine
from understudy.testing import (
    Buggify,
    ClockJump,
    Crash,
    Delay,
    Demote,
    Drop,
    Escape,
    Fault,
    Hold,
    KillAfter,
    RateLimited,
    ScriptedModel,
    SlowConsumer,
    Step,
    ToolRaises,
    World,
    buggify,
    call,
    play,
    sweep,
    worlds,
)

pytestmark = pytest.mark.promise(202)


@tool(effect="read")
async def order() -> str:
    """Look it up."""
    return "1042"


def build() -> Supervisor:
    return Supervisor("desk", [Agent("keeper", model=OpenAIChat("none"), tools=[order])])


desk = build()
bare = Agent("bare", model=OpenAIChat("none"))


def refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Crash("a", at=-1), "Crash('a'): at is -1; messages are counted from 1, 0 is the start"),
        (lambda: Crash("", at=1), "Crash: actor is ''; it is a path, or a number from 0"),
        (lambda: Drop("a", at=0), "Drop('a'): at is 0; messages are counted from 1"),
        (lambda: Drop(-1, at=1), "Drop: actor is -1"),
        (lambda: Delay("a", at=1, seconds=-1.0), "Delay('a', at=1): seconds is -1.0"),
        (lambda: SlowConsumer("a", at=1, seconds=float("nan")), "SlowConsumer('a', at=1): seconds is nan"),
        (lambda: ClockJump("a", at=1, seconds=float("inf")), "ClockJump('a', at=1): seconds is inf"),
        (lambda: Hold("a", at=-1, steps=1), "Hold('a'): at is -1"),
        (lambda: Hold("a", at=1, steps=-1), "Hold('a', at=1): steps is -1; turns of others, at least 0"),
        (lambda: Demote("a", at=0), "Demote('a'): at is 0"),
        (lambda: Buggify("", hit=1), "Buggify: site is ''"),
        (lambda: Buggify("a", hit=0), "Buggify('a'): hit is 0; hits are counted from 1"),
    ],
)
def test_a_fault_or_deviation_that_can_never_happen_is_refused(call: Callable[[], object], said: str) -> None:
    refused(call, said)


def test_a_clock_may_jump_back_and_the_start_be_held() -> None:
    assert ClockJump("a", at=1, seconds=-60.0).seconds == -60
    assert Hold("a", at=0, steps=1).at == 0
    assert Crash(0, at=0).at == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"faults": [Crash("a", at=1)]},
        {"faults": Crash("a", at=1)},
        {"faults": (Crash,)},
        {"schedule": (7,)},
        {"schedule": Hold("a", at=1, steps=1)},
        {"says": {"keeper": (1,)}},
        {"says": (("keeper", 1),)},
        {"says": (("keeper", (-1,)),)},
        {"people": "yes"},
        {"people": ("yes",)},
        {"inline": None},
        {"seed": "one"},
    ],
)
def test_a_world_of_something_else_is_refused_when_it_is_made(fields: Any) -> None:
    [(name, value)] = fields.items()
    refused(lambda: World(**fields), f"World: {name} ")
    shown = value[0] if isinstance(value, tuple) else value
    refused(lambda: World(**fields), repr(shown))


def packed(world: object) -> str:
    return f"w1:{base64.urlsafe_b64encode(zlib.compress(json.dumps(world).encode())).decode()}"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "replay token None: it is a text"),
        (packed([1, 2]), "it holds no world"),
        (packed({"faults": 1}), "it holds no world"),
        (packed({"faults": [1]}), "no fault 1 here"),
        (packed({"faults": [{"$": "tool:Fault", "tool": "pay", "call": 1}]}), "no fault 'tool:Fault' here"),
        (packed({"faults": [{"$": "Crash", "actor": "a", "at": -4}]}), "Crash('a'): at is -4"),
        (packed({"luck": 1}), "a world has no 'luck'"),
        (f"w1:{base64.urlsafe_b64encode(zlib.compress(b'[' * 100_000)).decode()}", "not whole"),
    ],
)
def test_a_token_of_no_world_is_one_clear_error(token: Any, said: str) -> None:
    refused(lambda: World.from_token(token), "replay token")
    refused(lambda: World.from_token(token), said)


def test_a_kind_that_is_only_the_base_of_others_is_not_offered() -> None:
    with pytest.raises(UsageError) as caught:
        World.from_token(packed({"faults": [1]}))
    assert "tool:ToolRaises" in str(caught.value)
    assert "_DiskFault" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tree": None}, "worlds: the tree is None; it is a Supervisor or an Agent"),
        ({"tree": build}, "it is a Supervisor or an Agent: call it"),
        ({"kills": -1}, "worlds: kills is -1; from 0 to 31"),
        ({"kills": 32}, "worlds: kills is 32; from 0 to 31"),
        ({"kills": True}, "worlds: kills is True"),
        ({"faults": Crash}, "it is a list of kinds of faults"),
        ({"faults": [Crash("desk", at=1)]}, "faults has Crash(actor='desk', at=1)"),
        ({"faults": ["Crash"]}, "faults has 'Crash'"),
        ({"faults": [Fault]}, "Fault is not drawn for a tree"),
        ({"faults": [KillAfter]}, "KillAfter is not drawn for a tree: kills are asked for by `kills=`"),
        ({"tree": bare, "faults": [ToolRaises]}, "ToolRaises has nothing to strike: the tree has no tool"),
    ],
)
def test_worlds_that_cannot_be_drawn_are_refused_at_once(given: Any, said: str) -> None:
    refused(lambda: worlds(given.pop("tree", desk), **given), said)


def test_without_hypothesis_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from understudy import Agent, OpenAIChat\n"
        "from understudy.testing import worlds\n"
        "try: worlds(Agent('a', model=OpenAIChat('none')))\n"
        "except ModuleNotFoundError as error: print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.startswith("hypothesis worlds: "), done.stderr
    assert "pip install 'understudy[testing]'" in done.stdout


def test_a_machine_whose_messages_are_no_strategies_is_refused_when_it_is_declared() -> None:
    with pytest.raises(UsageError, match=r"Wrong.messages\['bank'\] is 7; it is a strategy of messages"):
        type("Wrong", (ActorMachine,), {"messages": {"bank": 7}})


class Forgets(ActorMachine):
    messages: ClassVar[Any] = {"bank": st.just(Prompt("x"))}

    async def begin(self, stack: AsyncExitStack) -> Any:
        """Returns nothing."""


def test_a_machine_whose_begin_returns_nothing_says_so() -> None:
    machine = Forgets()
    refused(lambda: machine._begin_in(World()), "Forgets.begin returned None; it returns a ref for each of `messages`")
    with pytest.raises(UsageError, match=r"Forgets\.begin returned None"):
        machine.teardown()  # the end of a machine raises what its main raised


def test_a_tree_without_tools_has_worlds() -> None:
    assert worlds(bare) is not None


def says_nothing(_: object) -> Any:
    return None


def says_one_text(_: object) -> Any:
    return "all is wrong"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tree": None}, "play: the tree is None"),
        ({"world": None}, "play: world is None; it is a World"),
        ({"world": World().token}, "play: world is 'w1:"),
        ({"message": 7}, "play: message is 7; it is a text, a message, or a coroutine function"),
        ({"message": System}, "play: message is <class"),
        ({"message": lambda system: 1}, "which returned 1; it is a text, a message, or a coroutine function"),
        ({"to": 7}, "play: to is 7; it is an agent of the tree, or a name"),
        ({"check": 7}, "play: check is 7"),
        ({"check": [None]}, "play: check is [None]"),
        ({"check": [says_nothing]}, "check: says_nothing returned None; it yields a sentence"),
        ({"check": [says_one_text]}, "check: says_one_text returned 'all is wrong'"),
    ],
)
def test_a_play_of_something_else_is_refused(given: Any, said: str) -> None:
    whole = {"tree": desk, "world": World(), "message": "x", **given}
    refused(lambda: play(whole.pop("tree"), whole.pop("world"), whole.pop("message"), **whole), said)


@pytest.mark.parametrize(
    ("world", "said"),
    [
        (World(faults=(ToolRaises("oder", call=1),)), "and the tree no tool 'oder'; tools: order"),
        (World(faults=(RateLimited("clerk", call=1),)), "and the tree no agent 'clerk'; agents: keeper"),
        (World(says=(("clerk", (1,)),)), "the world has ('clerk', (1,)), and the tree no agent 'clerk'"),
    ],
)
def test_a_world_of_another_tree_is_refused_since_nothing_of_it_would_happen(world: World, said: str) -> None:
    refused(lambda: play(desk, world, "x"), said)


@tool(effect="read")
async def page() -> str:
    """Read it."""
    async with httpx.AsyncClient() as client:
        return (await client.get("http://127.0.0.1:9/")).text


def test_a_tool_that_reaches_the_network_through_a_library_is_named_with_its_line() -> None:
    reader = Agent("reader", model=OpenAIChat("none"), tools=[page])
    with pytest.raises(Escape, match=rf"{__file__}:\d+ page, in its task"):
        play(reader, World(says=(("reader", (1,)),)), "Read it.")


@pytest.mark.parametrize("steps", [None, "hello", call("order")])
def test_a_script_is_a_list_of_steps(steps: Any) -> None:
    refused(lambda: ScriptedModel(steps), "ScriptedModel: steps is")


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "1"])
def test_a_step_takes_a_time_that_there_is(seconds: Any) -> None:
    refused(lambda: Step("hello", seconds=seconds), "Step('hello'): seconds is")


def test_a_sweep_of_one_fault_for_ever_ends_at_once() -> None:
    tried: list[int] = []

    def fault(n: int) -> Fault:
        tried.append(n)
        return Buggify("disk", hit=1)

    async def asks() -> None:
        buggify("disk")

    refused(lambda: sweep(asks, fault=fault), "sweep: fault(2) is Buggify(site='disk', hit=1) again")
    assert tried == [1, 2]


def test_a_test_that_fails_itself_within_a_play_gets_the_page_of_its_world() -> None:
    async def fails(system: System) -> None:
        pytest.fail("not so")  # raises what is no Exception

    report.last = None
    with pytest.raises(pytest.fail.Exception):
        play(desk, World(seed=3), fails)
    last: Any = report.last
    assert last is not None
    assert last[0] == World(seed=3)
