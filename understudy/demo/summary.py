"""What the demo says of a run that has ended or waits: the summary object, and the words for its facts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from understudy.actors.agents.models import Model
from understudy.actors.agents.results import Result
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.state import Run
from understudy.demo import findings
from understudy.demo.findings import Report
from understudy.demo.messages import Inspected, Options
from understudy.demo.tools import Written
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.operator.text import many, name_of

Overspend = dict[str, dict[str, int]]
"""By pool and unit, what was billed beyond the limit; nothing is missing and nothing is 0."""


class Asked(Struct, frozen=True):
    """The arguments of `write_report`."""

    path: str
    report: Report


def overspend(run: Run, budget: Budget, billed: Mapping[str, int], owner: str = "audit") -> Overspend:
    """What the provider billed beyond the limits of the team's pool, and what the ledger itself booked as over."""
    found: Overspend = {pool: {u: n for u, n in units.items() if n} for pool, units in run.over.items()}
    pool = budget.pool(owner, run.id)
    for unit, amount in billed.items():
        if (excess := amount - pool.limits.get(unit, amount)) > 0:
            units = found.setdefault(pool.key, {})
            units[unit] = max(units.get(unit, 0), excess)
    return {pool: units for pool, units in found.items() if units}


def bill(model: Model, calls: int, input_tokens: int, output_tokens: int) -> dict[str, int]:
    """A provider's bill in the units of a budget."""
    units = {"model_calls": calls, "tokens": input_tokens + output_tokens}
    return units | ({"usd": model.price.cost(input_tokens, output_tokens)} if model.price is not None else {})


def loops_caught(records: Iterable[Record]) -> int:
    """Distinct loops, however many verdicts each took."""
    return len({(r.sub, r.event.verdict.key) for r in records if isinstance(r.event, ev.Judged)})


def steps_of(records: Iterable[Record]) -> dict[str, int]:
    """Model steps by the name of the actor that took them."""
    steps: dict[str, int] = {}
    for record in records:
        if isinstance(record.event, ev.ModelAnswered | ev.ModelFailed):
            name = name_of(record.path)
            steps[name] = steps.get(name, 0) + record.event.spent.get("steps", 0)
    return dict(sorted(steps.items()))


def written(run: Run) -> Written | None:
    """The files of the report, None while they are not written."""
    for call in run.main.calls():
        if call.call.name == "write_report" and call.ok:
            try:
                return msgspec.json.decode(call.outcome, type=Written)
            except msgspec.MsgspecError:
                return None  # a person said that it happened, and nobody knows its answer
    return None


def not_written(run: Run) -> str:
    """Why there is no file, "" when nothing went wrong with it."""
    calls = [call for call in run.main.calls() if call.call.name == "write_report" and call.done and not call.ok]
    return calls[-1].outcome or calls[-1].kind if calls and written(run) is None else ""


def failed_to_write(run: Run) -> bool:
    """Whether the report is missing although nobody said no to writing it."""
    calls = [call for call in run.main.calls() if call.call.name == "write_report" and call.done and not call.ok]
    return bool(calls) and calls[-1].kind != "refused" and written(run) is None


# Any: a JSON object.
def summary(
    result: Result[Report], run: Run, records: Sequence[Record], over: Overspend, journal: str
) -> dict[str, Any]:
    """The object that `--json` prints."""
    ended = result.output is not None and result.status in ("complete", "degraded", "partial")
    files = written(run) if ended else None
    partial = result.output if not ended else None
    report = result.output or waiting_report(result)
    return {
        "status": result.status,
        "run": result.run,
        "reason": result.reason,
        "spend": msgspec.to_builtins(result.spend),
        "restarts": run.restarts,
        "loops_caught": loops_caught(records),
        "overspend": over or 0,
        "report_digest": findings.digest(report.findings) if report is not None else None,
        "report_path": files.markdown if files is not None else None,
        "not_audited": list(report.not_audited) if report is not None else None,
        "journal_path": journal,
        "steps": steps_of(records),
        "pending": [approval.id for approval in result.pending] if result.status == "waiting" else [],
        "partial": msgspec.to_builtins(partial) if partial is not None else None,
    }


def waiting_report(result: Result[Report]) -> Report | None:
    """The report that a run which waits asks to write."""
    if result.status != "waiting":
        return None
    for approval in result.pending:
        if (asked := asked_to_write(approval.tool, approval.arguments)) is not None:
            return asked.report
    return None


def asked_to_write(tool: str, arguments: str) -> Asked | None:
    """The arguments of a call of `write_report`; None for another call or others."""
    try:
        return msgspec.json.decode(arguments, type=Asked) if tool == "write_report" else None
    except msgspec.MsgspecError:
        return None


# --- words --------------------------------------------------------------------------------------------------


def opening(options: Options) -> str:
    """The team in a line."""
    pool = f"inspector ×{options.inspectors}" if options.inspectors > 1 else "inspector"
    return f"planner, {pool}, reviewer · one_for_one, {Intensity(options.intensity, 60)}"


def describe(agent: str, output: str) -> tuple[str, str] | None:
    """An inspector's result in words."""
    try:
        if agent == "inspector" and output:
            part = msgspec.json.decode(output, type=Inspected)
            return "Checked", f"{many(len(part.audited), 'distribution')}, {many(len(part.findings), 'finding')}"
    except msgspec.MsgspecError:
        pass
    return None


def counted(report: Report) -> str:
    """The report in a few words."""
    words = f"{many(len(report.distributions), 'distribution')}, {many(len(report.findings), 'finding')}"
    return words + (f", {len(report.not_audited)} not audited" if report.not_audited else "")


def concluded(result: Result[Report], run: Run) -> str:
    """What came out, for the last lines."""
    report = result.output or waiting_report(result)
    if report is None:
        return ""
    files, failure = written(run), not_written(run)
    if files is not None and result.status != "stopped":
        return f"{counted(report)} → {files.markdown}, {files.json}"
    return counted(report) + (f" · not written: {failure}" if failure else "")


def overspent(over: Overspend) -> str:
    """Overspend in words."""
    return ", ".join(f"{pool} {n} {unit}" for pool, units in over.items() for unit, n in units.items()) or "0"
