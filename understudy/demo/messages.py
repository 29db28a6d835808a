"""What the members of the audit team tell each other, and how parts become one report. Pure.

`Audit` is the request, `Inspect` is what the planner delegates, `Draft` is what it hands on to the reviewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from understudy.actors.agents.results import Result
from understudy.actors.messages import Message
from understudy.demo import findings
from understudy.demo.environment import DistributionRef, Facts, Files
from understudy.demo.findings import Audited, Finding, Report
from understudy.demo.requirements import Graph

SCRIPTED = "scripted"
"""The model that this project brings along."""


class Options(Struct, frozen=True):
    """What one audit is told, and all that is needed to build its team again.

    `model`: the provider's name, or `SCRIPTED`. `inspectors`: size of the pool. `out`: file or folder of the report.
    `path`: folders as in `sys.path`, None for this interpreter's own. `steps`: the most model steps of all together.
    `intensity`: restarts within 60 s that are normal. `loop_guard` False takes the guard away, `loop_script` False
    the blank in a name that the scripted model stumbles over, `note` False the note a restarted inspector gets.
    """

    model: str = SCRIPTED
    inspectors: int = 3
    out: str = "audit.md"
    path: tuple[str, ...] | None = None
    steps: int = 120
    intensity: int = 5
    loop_guard: bool = True
    loop_script: bool = True
    note: bool = True


class Inspected(Struct, frozen=True):
    """What one inspector found: a line for each distribution it looked at, and everything that is wrong with them."""

    audited: tuple[Audited, ...] = ()
    findings: tuple[Finding, ...] = ()


class Audit(Message[Result[Report]]):
    """Audit an environment and write a report."""

    options: Options


class Inspect(Message[Result[Inspected]]):
    """Look at these distributions, each by its name as given."""

    names: tuple[str, ...]


class Draft(Message[Result[Report]]):
    """The report before the requirements between distributions are weighed; it is to be written to `out`."""

    report: Report
    out: str


def inspected(read: Iterable[Facts], files: Mapping[str, Files]) -> Inspected:
    """Judge what was read; `files` is by key. What only the whole environment can tell is left to the reviewer."""
    known = {facts.key: facts for facts in read}
    pairs = [(facts, files.get(key)) for key, facts in sorted(known.items())]
    found = [finding for facts, have in pairs for finding in findings.judge(facts, have, Graph())]
    return Inspected(tuple(findings.audited(*pair) for pair in pairs), findings.merge(found))


def assemble(
    installed: Sequence[DistributionRef], batches: Iterable[tuple[str, ...]], parts: Iterable[Inspected]
) -> Report:
    """The report made of what the inspectors found so far; what nobody looked at is named."""
    seen: dict[str, Audited] = {}
    found: list[Finding] = []
    for part in parts:
        seen |= {line.key: line for line in part.audited}
        found += part.findings
    return Report(
        distributions=tuple(seen[ref.key] for ref in installed if ref.listed and ref.key in seen),
        findings=findings.merge(found),
        batches=tuple(tuple(name.strip() for name in batch) for batch in batches),
        not_audited=tuple(ref.key for ref in installed if ref.key not in seen),
    )
