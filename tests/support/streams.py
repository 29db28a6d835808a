"""Streams for tests of fold, decide and replay: what a driver would journal, without any driver.

`play` asks `decide` again and again and answers each command with outcomes that a script chooses, so every stream it
makes is one that a real run could have left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from msgspec import Struct

from understudy.actors.agents import commands as cmd
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.commands import call_digest, command_digest
from understudy.actors.agents.decide import decide
from understudy.actors.agents.models import ModelReply, ModelSession, Price, ToolCall, Usage
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import tool
from understudy.actors.agents.window import ContextWindow
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.state import Run
from understudy.actors.states import State, StateMachine
from understudy.supervisors.guards.loops import Loops


class Answer(Struct, frozen=True):
    text: str


class NoModel:
    """A description of a model that nobody opens."""

    name = "none"
    price = Price(1, 1)

    def session(self) -> AbstractAsyncContextManager[ModelSession]:
        raise AssertionError("a pure test opened a model")


@tool(effect="read")
def look(what: str) -> str:
    """Look."""
    return what


@tool(effect="idempotent")
def put(what: str) -> str:
    """Put."""
    return what


@tool(effect="irreversible", approve="boss")
def send(what: str) -> str:
    """Send."""
    return what


async def fits(answer: Answer) -> str | None:
    """A check that looks at the world; what it says is drawn."""
    return None


def make_policy(
    *,
    loops: Loops | None = None,
    instructions: str = "Do it.",
    repairs: int = 2,
    window: ContextWindow | None = None,
    checked: bool = False,
) -> Policy:
    agent = Agent(
        "clerk",
        model=NoModel(),
        output=Answer,
        tools=[look, put, send],
        instructions=instructions,
        repairs=repairs,
        checks=[fits] if checked else [],
        fallback=NoModel() if checked else None,
        window=window,
        checkpoint=lambda ctx: Answer(f"{len(ctx.results('look'))} looked at") if ctx.results("look") else None,
    )
    return Policy(agent, "main/clerk", loops=loops if loops is not None else Loops())


class S(StrEnum):
    CHECK = "check"
    ACT = "act"
    COOL = "cool"
    DONE = "done"


class E(StrEnum):
    GO = "go"
    BACK = "back"
    END = "end"


def make_machine(*, seconds: float = 500.0, back: S = S.CHECK) -> StateMachine[S, E]:
    """Checked, acted upon, or given up; a state of its own only lasts a while."""
    return StateMachine(
        S.CHECK,
        {
            S.CHECK: State(on={E.GO: S.ACT, E.END: S.DONE}, timeout=(seconds, S.ACT)),
            S.ACT: State(tools=[put, send], on={E.BACK: back, E.GO: S.COOL, E.END: S.DONE}, timeout=(900, S.DONE)),
            S.COOL: State(timeout=(10, S.CHECK)),
            S.DONE: State(),
        },
    )


def make_machine_policy(
    machine: StateMachine[S, E] | None = None, *, loops: Loops | None = None, instructions: str = "Do it."
) -> Policy:
    agent = Agent(
        "clerk",
        model=NoModel(),
        output=Answer,
        tools=[look],
        machine=machine or make_machine(),
        instructions=instructions,
    )
    return Policy(agent, "main/clerk", loops=loops if loops is not None else Loops())


Choice = Callable[[str, Sequence[str]], str]
"""Chooses one of the given options; the first argument says what for."""


@dataclass
class Play:
    """A run being played: its records and its state. `choose` decides everything the world decides.

    `ratio`: tokens that the provider counts for each byte of the most it could count; None for always ten. `look` sees
    every command before it is carried out.
    """

    policy: Policy
    choose: Choice
    records: list[Record] = field(default_factory=list)
    state: Run = field(default_factory=lambda: Run("t0"))
    incarnation: int = 1
    ratio: float | None = None
    look: Callable[[cmd.Command], None] = lambda command: None

    def add(self, event: ev.AnyEvent) -> None:
        seq = len(self.records) + 1
        record = Record("t0", seq, float(seq), float(seq), 0, "main/clerk", self.incarnation, seq - 1, event)
        record = ev.decode(ev.encode(record))
        self.records.append(record)
        self.state = apply(self.state, record)

    def run(self, commands: int = 60) -> list[Record]:
        self.add(ev.RunStarted("clerk", "Prompt", '{"$":"Prompt","text":"go"}'))
        self.add(ev.AttemptStarted(1))
        for _ in range(commands):
            if self.state.finished is not None:
                break
            self._clock()
            self._crash()
            self.step(decide(self.state, self.state.main, self.policy))
        return self.records

    def _clock(self) -> None:
        """Time passes as the script wants it."""
        main = self.state.main
        if main.until and not main.expired and self.choose("clock", ["wait", "wait", "pass"]) == "pass":
            self.add(ev.StateTimedOut(main.state, main.until))

    def _crash(self) -> None:
        """Under a memory policy an incarnation crashes now and then."""
        if self.policy.memory != "last_step" and self.choose("crash", ["on", "on", "on", "crash"]) == "crash":
            self.incarnation += 1
            self.add(ev.AttemptStarted(self.state.main.attempt + 1, 0, "RuntimeError: broke"))

    def step(self, command: cmd.Command) -> None:
        self.look(command)
        digest = command_digest(command)
        match command:
            case cmd.CallModel():
                self._model(command, digest)
            case cmd.CallTools():
                self._tools(command)
            case cmd.Reject():
                self.add(
                    ev.ToolRejected(command.step, command.index, command.name, command.arguments, command.error, digest)
                )
            case cmd.Compact():
                spans = command.dropped, command.text, command.cuts
                self.add(ev.Compacted(command.rule, *spans, command.tokens, command.left, digest))
            case cmd.RejectOutput():
                self.add(ev.OutputRejected(command.step, command.error, command.repairs, digest, command.told))
            case cmd.SwitchModel():
                self.add(ev.ModelSwitched(command.step, command.model, command.reason, digest))
            case cmd.CheckOutput():
                said = self.choose("check", ["", "objection", "skipped"])
                error, skipped = said if said == "objection" else "", said if said == "skipped" else ""
                spent = {"tool_calls": 1}
                self.add(ev.OutputChecked(command.step, command.check, error, skipped, ("p",), spent, 0.0, digest))
            case cmd.Move():
                until = self.state.main.until if command.source == command.to else 0.0
                if command.seconds is not None:
                    until = 1e9 + len(self.records) + command.seconds
                self.add(
                    ev.Moved(
                        command.source,
                        command.to,
                        command.cause,
                        command.event,
                        command.step,
                        command.index,
                        command.result,
                        until,
                        digest,
                    )
                )
            case cmd.Judge():
                self.add(
                    ev.Judged(
                        command.verdict, command.note, command.rewind_to, command.dropped, command.temperature, digest
                    )
                )
            case cmd.Recall():
                self.add(ev.Recalled(command.memory, command.note, command.rewind_to, command.dropped, digest))
            case cmd.EndIncarnation():
                restart = self.state.main.restart
                assert restart is not None
                self.incarnation += 1
                self.add(ev.AttemptStarted(self.state.main.attempt + 1, restart.seq))
            case cmd.AskYes():
                self.add(
                    ev.ApprovalAsked(
                        command.approval,
                        command.step,
                        command.index,
                        command.name,
                        command.arguments,
                        command.digest,
                        command.policy,
                        1e12,
                        command.who,
                        digest,
                    )
                )
            case cmd.Park(on="timer"):
                self.add(ev.Parked(command.on, command.ids))
                self.add(ev.StateTimedOut(self.state.main.state, self.state.main.until))
                self.add(ev.Unparked("its time has come"))
            case cmd.Park():
                self._person(command)
            case cmd.RefuseYes():
                self.add(ev.ApprovalRefused(command.approval, "check", command.reason))
            case cmd.Finish():
                self.add(ev.Finished(command.status, command.output, command.reason, True, digest))
            case _:
                raise AssertionError(f"unexpected {command}")

    def _model(self, command: cmd.CallModel, digest: str) -> None:
        ticket = f"m{len(self.records)}"
        reserved = {"steps": 1, "model_calls": 1, "tokens": 100}
        self.add(
            ev.ModelAsked(
                command.step,
                command.parts,
                command.max_tokens,
                reserved,
                ("p",),
                ticket,
                command.try_,
                digest,
                command.last,
                command.size,
                command.covers,
            )
        )
        if command.covers:
            self._summary(command, ticket, reserved)
            return
        options = ["answer", "look", "looks", "put", "send", "mixed", "nonsense", "unknown", "fail"]
        if self.policy.table is not None:
            options += ["move", "moves", "lost"]
        if self.policy.agent.fallback is not None:
            options += ["gone"]
        what = self.choose("reply", options)
        if what == "gone":
            self.add(ev.ModelFailed(command.step, ticket, "refused", "404", False, {"steps": 1}))
            return
        if what == "fail":
            self.add(ev.ModelFailed(command.step, ticket, "overloaded", "503", True, dict(reserved), estimated=True))
            return
        reply = self._reply(what, command.step)
        if self.ratio is not None:
            reply = msgspec.structs.replace(reply, usage=Usage(math.ceil(command.size * self.ratio), 5))
        self.add(ev.ModelAnswered(command.step, ticket, reply, dict(reserved)))

    def _summary(self, command: cmd.CallModel, ticket: str, reserved: dict[str, int]) -> None:
        what = self.choose("summary", ["short", "short", "short", "empty", "long", "fail", "refuse"])
        if what in ("fail", "refuse"):
            self.add(ev.ModelFailed(command.step, ticket, "overloaded", "503", what == "fail", dict(reserved)))
            return
        text = {"short": "so far so good", "empty": " ", "long": "so " * 10_000}[what]
        self.add(ev.ModelAnswered(command.step, ticket, ModelReply(text, usage=Usage(9, 4)), dict(reserved)))

    def _reply(self, what: str, step: int) -> ModelReply:
        usage = Usage(10, 5)
        name = self.choose("what", ["a", "b"])

        def call(number: int, tool_name: str, arguments: object) -> ToolCall:
            return ToolCall(f"c{step}_{number}", tool_name, json.dumps(arguments))

        match what:
            case "answer":
                return ModelReply(json.dumps({"text": name}), usage=usage)
            case "nonsense":
                return ModelReply("I think so", usage=usage)
            case "look":
                return ModelReply(calls=(call(0, "look", {"what": name}),), usage=usage)
            case "looks":
                return ModelReply(calls=tuple(call(n, "look", {"what": f"{name}{n}"}) for n in range(3)), usage=usage)
            case "move" | "moves":
                events = [self.choose("event", ["go", "back", "end"]) for _ in range(1 if what == "move" else 2)]
                moves = [call(n, "move", {"event": event}) for n, event in enumerate(events)]
                return ModelReply(calls=(*moves, call(2, "put", {"what": name})), usage=usage)
            case "lost":
                return ModelReply(calls=(call(0, "move", {"to": name}), call(1, "move", {"event": name})), usage=usage)
            case "put":
                return ModelReply(calls=(call(0, "put", {"what": name}),), usage=usage)
            case "send":
                return ModelReply(calls=(call(0, "send", {"what": name}),), usage=usage)
            case "mixed":
                names = ["look", "look", "put", "look", "send", "look"]
                calls = tuple(call(n, each, {"what": f"{name}{n}"}) for n, each in enumerate(names))
                return ModelReply(calls=calls, usage=usage)
            case _:
                bad = (call(0, "lok", {"what": name}), call(1, "look", {"wat": name}), call(2, "look", {"what": name}))
                return ModelReply(calls=bad, usage=usage)

    def _tools(self, command: cmd.CallTools) -> None:
        for planned in command.calls:
            self.add(
                ev.ToolAsked(
                    planned.step,
                    planned.index,
                    planned.name,
                    planned.arguments,
                    planned.effect,
                    planned.loop_key,
                    planned.polling,
                    planned.key,
                    planned.approval,
                    command=command_digest(planned),
                )
            )
        for planned in command.calls:
            if self.choose("outcome", ["ok", "error"]) == "ok":
                more = {"short": "", "long": " it" * 400, "huge": " all" * 4_000}[
                    self.choose("result", ["short", "long", "huge"])
                ]
                self.add(ev.ToolAnswered(planned.step, planned.index, json.dumps(f"{planned.name} did{more}")))
            else:
                self.add(ev.ToolFailed(planned.step, planned.index, "OSError", "OSError: no"))

    def _person(self, command: cmd.Park) -> None:
        yes = self.state.approvals[command.ids[0]]
        self.add(ev.Parked(command.on, command.ids))
        if self.state.main.until and self.choose("clock", ["wait", "pass"]) == "pass":
            self.add(ev.StateTimedOut(self.state.main.state, self.state.main.until))
        elif self.choose("person", ["yes", "no"]) == "yes":
            digest = call_digest(yes.asked.name, yes.asked.arguments)
            self.add(ev.ApprovalGiven(yes.id, "ana", digest, yes.asked.policy))
        else:
            self.add(ev.ApprovalRefused(yes.id, "ana", "not now"))
        self.add(ev.Unparked("answered"))
