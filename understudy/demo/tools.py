"""The tools of the audit team, over one environment: real data, read from the disk at each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from understudy.actors.agents.tools import Tool, tool
from understudy.demo import environment, requirements
from understudy.demo import report as reports
from understudy.demo.environment import DistributionRef, Facts, Files
from understudy.demo.findings import Report
from understudy.demo.requirements import Graph

SUMMARY = 120
"""Characters of a distribution's summary that a model is shown."""


class Written(Struct, frozen=True):
    """The two files of a report."""

    markdown: str
    json: str


@dataclass(frozen=True)
class Tools:
    """The tools, by who may use them. The parameters of each are its own."""

    planner: tuple[Tool[..., Any], ...]
    inspector: tuple[Tool[..., Any], ...]
    reviewer: tuple[Tool[..., Any], ...]


def tools(path: Sequence[str] | None = None) -> Tools:
    """The tools over the environment at `path`, as in `environment`."""

    @tool(effect="read")
    def list_distributions() -> tuple[DistributionRef, ...]:
        """List every installed distribution: the key to ask for, its name and version."""
        return environment.distributions(path)

    @tool(effect="read")
    def read_metadata(name: str) -> Facts:
        """Read what one distribution says of itself. What it requires is left to check_requirements."""
        facts = environment.facts(name, path)
        return msgspec.structs.replace(facts, requires=(), summary=facts.summary[:SUMMARY])

    @tool(effect="read")
    def read_files(name: str) -> Files:
        """Compare the files that one distribution has on the disk with its RECORD."""
        return environment.files(name, path)

    @tool(effect="read")
    def check_requirements() -> Graph:
        """Find distributions that nothing requires, and requirements that are not met."""
        return requirements.graph(path)

    return Tools((list_distributions,), (read_metadata, read_files), (check_requirements, write_report))


@tool(effect="irreversible", approve="publish")
def write_report(path: str, report: Report) -> Written:
    """Write the report as Markdown and JSON side by side. Files that stood there are replaced."""
    markdown, json = reports.write_report(path, report)
    return Written(str(markdown), str(json))
