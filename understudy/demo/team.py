"""The audit team: a planner, a pool of inspectors and a reviewer under one supervisor.

The planner lists the environment and delegates a batch to each inspector; its draft is handed on to the reviewer,
who weighs the requirements and writes the report, which needs a person's yes. The checkpoints keep what there is
when a member is stopped.
"""

from __future__ import annotations

import msgspec

from understudy.actors.agents.agent import Agent, Ctx
from understudy.actors.agents.guards import Nudge, Restart, Stop
from understudy.actors.agents.models import Model
from understudy.demo.environment import DistributionRef, Facts, Files
from understudy.demo.findings import Report
from understudy.demo.messages import Audit, Draft, Inspect, Inspected, Options, assemble, inspected
from understudy.demo.tools import tools
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.specs import ChildSpec, Route, Supervisor

TOKENS = 8_000_000
"""Generous, because every call reserves a token for each byte it sends, and far from without end."""
USD = 5.0
SECONDS = 300.0
REPORT_TOKENS = 48_000
"""The most that an answer with a whole report may have: some 500 distributions."""
PART_TOKENS = 16_000
RESTARTS_WITHIN = 60.0

PLAN = """\
You plan the audit of a Python environment. Call list_distributions once. Split the keys, in their order, into \
options.inspectors batches of nearly equal size and delegate every batch with one call of inspector, all calls in \
one reply. Then answer with the draft: `out` is options.out; `report.distributions` are the lines of the inspectors \
for the distributions that are `listed`, `report.findings` all their findings, `report.batches` the keys of each \
batch, `report.not_audited` the keys no inspector gave a line for. Leave nothing out and add nothing."""

INSPECT = """\
You inspect Python distributions. For each of the names call read_metadata and read_files, several names in one \
reply. Then answer with one line for each distribution you read (`audited`) and the findings about them: missing or \
contradictory licences and metadata, copies installed more than once, files that are missing or differ from RECORD."""

REVIEW = """\
You review the draft of an audit. Call check_requirements once and add a finding for every distribution that nothing \
requires (rule `unused`) and every requirement that is not met (rule `unsatisfied-pin`). Then call write_report once, \
with `out` as the path and the whole report. Answer with the same report, whether it was written or refused."""


def team(options: Options, *, model: Model) -> Supervisor:
    """The team for `options`, inert. Raises `SpecError` for values that make no sense."""
    have = tools(options.path)
    inspector = Agent(
        "inspector",
        model=model,
        accepts=Inspect,
        tools=have.inspector,
        instructions=INSPECT,
        max_tokens=PART_TOKENS,
        checkpoint=_inspected_so_far,
    )
    planner = Agent(
        "planner",
        model=model,
        accepts=Audit,
        output=Draft,
        delegates=[inspector],
        tools=have.planner,
        instructions=PLAN,
        max_tokens=REPORT_TOKENS,
        on_abandon="park",
        checkpoint=_planned_so_far,
    )
    reviewer = Agent(
        "reviewer",
        model=model,
        accepts=Draft,
        tools=have.reviewer,
        instructions=REVIEW,
        max_tokens=REPORT_TOKENS,
        on_abandon="park",
        checkpoint=_drafted,
    )
    pool: ChildSpec[Inspect] = ChildSpec(inspector, count=options.inspectors)
    return Supervisor(
        "audit",
        [planner, pool, reviewer],
        intensity=Intensity(options.intensity, within=RESTARTS_WITHIN),
        backoff=Backoff(first=0.5, cap=30.0),
        budget=_budget(options, model),
        loops=Loops(ladder=[Nudge(), Restart(note=options.note), Stop()]) if options.loop_guard else None,
        routes=[Route(Draft, to=reviewer)],
    )


def _budget(options: Options, model: Model) -> Budget:
    """Money is counted only when the model has a price."""
    usd = USD if model.price is not None else None
    return Budget(steps=options.steps, tokens=TOKENS, usd=usd, seconds=SECONDS)


def _inspected_so_far(ctx: Ctx) -> Inspected:
    """What the results an inspector has got say, judged without its model."""
    facts = {one.key: one for one in msgspec.convert(ctx.results("read_metadata"), tuple[Facts, ...])}
    files = {one.key: one for one in msgspec.convert(ctx.results("read_files"), tuple[Files, ...])}
    return inspected(facts.values(), files)


def _planned_so_far(ctx: Ctx) -> Report:
    """What the inspectors have given back. Their results are those of sub-runs, whatever came of them."""
    listed = ctx.results("list_distributions")
    calls = ctx.calls("inspector")
    return assemble(
        msgspec.convert(listed[-1] if listed else (), tuple[DistributionRef, ...]),
        [tuple(map(str, arguments["names"])) for arguments, _ in calls],
        [msgspec.convert(told["output"], Inspected) for _, told in calls if told["output"] is not None],
    )


def _drafted(ctx: Ctx) -> Report:
    """The draft that the reviewer was handed."""
    assert isinstance(ctx.message, Draft)  # noqa: S101  # it accepts nothing else
    return ctx.message.report
