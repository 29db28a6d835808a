"""Trees whose children take their time to start and to stop, one supervisor below another, held against the rules.

Nothing is foretold: what was seen is looked through afterwards.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from players import look_between_turns
from supervised import Echo, End, High

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, UsageError
from understudy.actors.journal.events import AnyEvent, BackedOff, ChildExited, ChildStarted
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.handles import SupervisorRef
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import ChildPlan, SupervisorPlan
from understudy.supervisors.strategies import STRATEGIES
from understudy.supervisors.supervisor import SupervisorActor

WITHIN: Final = 1.0
HEALTHY: Final = 20.0
CAP: Final = 4.0
KIDS: Final = ("desk/a", "desk/sub/d", "desk/sub/e", "desk/c")
ORDER: Final = {"desk": ("desk/a", "desk/sub", "desk/c"), "desk/sub": ("desk/sub/d", "desk/sub/e")}

kid = st.integers(0, len(KIDS) - 1)


def _again(who: int, pauses: list[float]) -> list[Any]:
    """Somebody fails again and again, before or after it has started."""
    return [move for pause in pauses for move in (("crash", who, "error"), ("wait", pause))]


slow_move = st.one_of(
    st.tuples(st.just("crash"), kid, st.sampled_from(["error", "error", "normal"])),
    st.tuples(st.just("crash"), kid, st.sampled_from(["error", "error", "normal"])),
    st.tuples(st.just("echo"), kid),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.31, 0.7, 1.6, 7.0])),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.31, 0.7, 1.6, 7.0])),
    st.tuples(st.just("terminate"), kid),
    st.tuples(st.just("start"), kid),
    st.tuples(st.just("stop"), kid),
)
pauses = st.lists(st.sampled_from([0.05, 0.31, 0.7]), min_size=2, max_size=4)
slow_moves = st.lists(
    st.one_of(
        st.lists(slow_move, min_size=1, max_size=4),
        st.lists(slow_move, min_size=1, max_size=4),
        st.builds(_again, kid, pauses),
    ),
    max_size=6,
).map(lambda groups: [move for group in groups for move in group])
slow_trees = st.tuples(
    st.sampled_from(STRATEGIES),
    st.sampled_from(STRATEGIES),
    st.lists(
        st.tuples(
            kid, st.integers(2, 4), st.sampled_from([0.3, 0.3, 0.8, 0.8, 5.0]), st.sampled_from([False, False, True])
        ),
        max_size=6,
    ),  # the starts that take time: of whom, of which incarnation, how long
    st.tuples(*(st.sampled_from([0.0, 0.0, 0.4]),) * 4),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1, 1000]),
    slow_moves,
)


@dataclass(frozen=True)
class Seen:
    """`at`: seconds. `what`: `begin`, `up`, `stopping`, `down`, `exit`, `delay`, `said`."""

    at: float
    path: str
    what: str
    number: int = 0
    detail: Any = None


class Kid(Actor[End | Echo]):
    """Takes its time."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    async def on_start(self) -> None:
        path, number = self.context.path, self.context.incarnation
        self.tree.see(path, "begin", number)
        seconds = self.tree.slow.get((path, number), 0.0)
        if seconds:
            await asyncio.sleep(seconds)
        if (path, number) in self.tree.fails:
            raise LookupError("no disk")
        self.tree.see(path, "up", number)

    async def on_stop(self, exit: Exit) -> None:
        path, number = self.context.path, self.context.incarnation
        self.tree.see(path, "stopping", number, exit.kind)
        await asyncio.sleep(self.tree.stops[path])
        self.tree.see(path, "down", number)

    def end(self, m: End) -> None:
        if m.kind == "error":
            raise ValueError(m.detail)
        raise Leave(Exit(m.kind, m.detail))

    def echo(self, m: Echo) -> str:
        self.tree.see(self.context.path, "said", self.context.incarnation, m.text)
        return m.text


class Tree:
    """The tree, and what was seen."""

    def __init__(self, kernel: Kernel, drawn: Any) -> None:
        self.kernel = kernel
        self.strategies = {"desk": drawn[0], "desk/sub": drawn[1]}
        self.slow = {(KIDS[who], number): seconds for who, number, seconds, _ in drawn[2]}
        self.fails = {(KIDS[who], number) for who, number, _, fails in drawn[2] if fails}
        self.stops = dict(zip(KIDS, drawn[3], strict=True))
        self.backoff = Backoff(first=drawn[4], factor=2, cap=CAP, jitter=0.5, healthy=HEALTHY)
        self.limit = drawn[5]
        self.seen: list[Seen] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.stopped: set[str] = set()
        self.by_hand: list[asyncio.Task[Any]] = []

    def see(self, path: str, what: str, number: int = 0, detail: Any = None) -> None:
        self.seen.append(Seen(self.kernel.loop.time(), path, what, number, detail))

    def observe(self, cell: Cell, make: Any, loud: bool) -> None:
        event: AnyEvent = make()
        match event:
            case ChildExited():
                self.see(event.child, "exit", event.number, (event.exit, event.intended))
            case BackedOff():
                self.see(event.child, "delay", 0, (event.delay, event.failures))
            case ChildStarted():
                self.see(event.child, "started", event.number)
            case _:
                pass

    def plan(self, path: str, limit: int) -> SupervisorPlan:
        children = []
        for child in ORDER[path]:
            name = child.rpartition("/")[2]
            if child in ORDER:
                below = self.plan(child, self.limit)
                children.append(ChildPlan(name, lambda below=below: SupervisorActor(below), shutdown=60.0))  # type: ignore[misc]
            else:
                children.append(ChildPlan(name, lambda: Kid(self), start_within=WITHIN))
        return SupervisorPlan(
            children, Intensity(limit, 30.0), self.backoff, High(), self.observe, self.strategies[path]
        )

    def cell(self, path: str) -> Cell | None:
        return self.kernel.registry.find(path)

    async def move(self, move: Any) -> None:
        what = move[0]
        if what == "wait":
            await asyncio.sleep(move[1] + 0.0001)
            return
        path = KIDS[move[1]]
        cell = self.cell(path)
        above = SupervisorRef(self.kernel, path.rpartition("/")[0])
        name = path.rpartition("/")[2]
        try:
            if what == "crash" and cell is not None and cell.state == "running":
                assert self.kernel.ref_of(cell).tell(End(move[2], "crash"))
            elif what == "echo" and cell is not None and cell.state not in ("stopping", "stopped"):
                text = str(len(self.texts[path]))
                if self.kernel.ref_of(cell).tell(Echo(text)):
                    self.texts[path].append(text)
            elif what == "terminate":
                self.stopped.add(path)
                self.by_hand.append(asyncio.create_task(above.terminate_child(name)))
                await asyncio.sleep(0.0001)
            elif what == "stop" and cell is not None:
                self.stopped.add(path)
                self.kernel.begin_stop(cell)
            elif what == "start":
                self.by_hand.append(asyncio.create_task(self.start(above, name)))
        except ActorStopped:
            return

    async def start(self, above: SupervisorRef, name: str) -> None:
        path = f"{above.path}/{name}"
        ref = await above.restart_child(name)
        assert ref.path == path


async def play_slow(drawn: Any) -> None:
    """The moves, and a look at all that was seen."""
    async with Kernel() as kernel:
        look_between_turns(kernel)
        tree = Tree(kernel, drawn)
        desk = kernel.spawn(lambda: SupervisorActor(tree.plan("desk", 1000)), name="desk")
        assert await kernel.wait_started(desk) is None
        for move in drawn[6]:
            await tree.move(move)
        await asyncio.sleep(60)
        for task in tree.by_hand:
            assert task.done(), "a person waits for ever"
            error = task.exception()
            assert error is None or isinstance(error, UsageError | ActorStopped | AskTimeout), repr(error)
        at_rest(tree)
        looked_through(tree)
        seen = len(tree.seen)
        await kernel.stop(desk)
        stopped_in_order(tree, tree.seen[seen:])
        assert not any(entry[3].call for entry in kernel.timers._heap), "timers are left"
        del kernel.loop._run_once  # type: ignore[attr-defined]  # as it was
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"


def at_rest(tree: Tree) -> None:
    """Whoever nobody has stopped is up, and has got what it was told."""
    for path, names in ORDER.items():
        cell = tree.cell(path)
        assert cell is not None, f"{path} is gone"
        assert cell.state == "running", f"{path} is {cell.state}"
        actor = cell.life.actor if cell.life is not None else None
        assert isinstance(actor, SupervisorActor)
        assert actor._group is None, f"{path}: a group restart goes on for ever"
        assert actor.regrouping() is None
        for info in actor.infos():
            if info.path not in tree.stopped:
                assert info.state == "running", f"{info.path} is {info.state}"
        assert [info.path for info in actor.infos()] == list(names)
        for batch in actor._limits._batches:
            assert all(life.cell.state == "starting" for life in batch.lives), "a start that is over is kept"
    for path, texts in tree.texts.items():
        if path not in tree.stopped and not path.startswith("desk/sub"):  # whose addresses may be new ones
            said = [each.detail for each in tree.seen if each.path == path and each.what == "said"]
            assert said == texts, f"{path} was told {texts}, and said {said}"


def looked_through(tree: Tree) -> None:
    """Every start, end and delay by the rules."""
    for path in KIDS:
        above = path.rpartition("/")[0]
        own = [each for each in tree.seen if each.path == path or (each.path == above and each.what == "exit")]
        _lives(tree, path, own)
        if path not in tree.stopped and not path.startswith("desk/sub"):
            _delays(tree, path, own)
    for above, children in ORDER.items():
        if tree.strategies[above] != "one_for_one" and not tree.stopped & set(children):
            _groups(tree, above, [child for child in children if child in KIDS])


def _lives(tree: Tree, path: str, own: list[Seen]) -> None:
    number, up, begun = 0, False, 0.0
    said: set[int] = set()
    for each in own:
        if each.path != path:
            if each.number:
                number = 0 if tree.strategies["desk"] == "one_for_one" else -1  # a new address, or one that was kept
        elif each.what == "started":
            said.add(each.number)
        elif each.what == "begin":
            assert each.number in said, f"{path}: nobody was told that incarnation {each.number} began"
            number = each.number - 1 if number < 0 and each.number > 0 else number
            assert each.number > number, f"{path}: incarnation {each.number} after {number}"
            number, begun, up = each.number, each.at, False
        elif each.what == "up":
            took = tree.slow.get((path, number), 0.0)
            assert each.number == number, f"{path}: an earlier incarnation is up"
            assert abs(each.at - begun - took) < 1e-6, f"{path}: up after {each.at - begun:g} s, and not {took:g}"
            assert took <= WITHIN + 0.05, f"{path}: it had {WITHIN:g} s to start, and took {took:g}"
            up = True
        elif each.what == "exit" and each.number == number:
            exit, _ = each.detail
            if "not started within" in exit.detail:
                took = tree.slow.get((path, number), 0.0)
                assert took > WITHIN, f"{path}: too late after {took:g} s"
                assert not up, f"{path}: it was up, and too late"
                assert WITHIN - 1e-6 <= each.at - begun <= WITHIN + 0.051, f"{path}: late after {each.at - begun:g} s"


def _delays(tree: Tree, path: str, own: list[Seen]) -> None:
    failures, began, exit = 0, 0.0, Exit("normal")
    due: float | None = None
    alone = tree.strategies["desk"] == "one_for_one"
    for each in own:
        if each.what == "started":
            if due is not None:
                assert each.at >= due - 1e-6, f"{path}: begun at {each.at:g}, and due at {due:g}"
                assert not alone or each.at <= due + 1e-6, f"{path}: begun at {each.at:g}, and due at {due:g}"
            began, due = each.at, None
        elif each.what == "exit":
            exit, _ = each.detail
        elif each.what == "delay":
            delay, count = each.detail
            before = failures if exit.kind == "start" or each.at - began < HEALTHY else 0
            failures = before + 1
            wanted = min(CAP, tree.backoff.first * 2**before) * 1.25
            assert (abs(delay - wanted) < 1e-9, count) == (True, failures), f"{path}: waits {delay:g}, not {wanted:g}"
            due = each.at + delay


def _groups(tree: Tree, above: str, children: list[str]) -> None:
    """One after another: nobody begins while somebody begins or ends, or while somebody after it is up."""
    up: set[str] = set()
    busy: dict[str, str] = {}
    for each in tree.seen:
        path = each.path
        if path == above and each.what == "exit":
            up, busy = set(), {}
        if path not in children:
            continue
        if each.what == "begin":
            others = {who: what for who, what in busy.items() if who != path}
            assert not others, f"{path} begins at {each.at:g}, and {others}"
            later = children[children.index(path) + 1 :]
            assert not up & set(later), f"{path} begins at {each.at:g}, and {up & set(later)} are up"
            busy[path] = "begins"
        elif each.what == "up":
            up.add(path)
            busy.pop(path, None)
        elif each.what == "stopping":
            up.discard(path)
            if each.detail == "shutdown":  # who ends by itself asks nobody
                busy[path] = "ends"
        elif each.what in ("down", "exit"):
            up.discard(path)
            busy.pop(path, None)


def stopped_in_order(tree: Tree, seen: list[Seen]) -> None:
    """The last one first, each fully."""
    paths = [each.path for each in seen if each.what == "stopping"]
    order = [path for path in ("desk/c", "desk/sub/e", "desk/sub/d", "desk/a") if path in paths]
    assert paths == order, f"stopped in the order {paths}"
    ends = [each.what for each in seen if each.what in ("stopping", "down")]
    assert ends == ["stopping", "down"] * len(paths), "stopped together"
    assert tree.kernel.registry.names() == ()
