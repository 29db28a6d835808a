"""The loop detector on recorded runs of other agents, in the format of the traces: `detect(steps) -> index | None`.

The rules and their thresholds are the product's defaults. What the format does not tell stays unknown: whether a call
changed the world, and the results themselves, of which it has a digest and the first characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from understudy.actors.agents.guards import Step
from understudy.supervisors.guards.loops import Loops

HEAD: Final = 160
"""Characters of a result that the format keeps."""
_TAGS: Final = re.compile(r"<[^>]*>")
_WORDS: Final = re.compile(r"[^\W\d_]")
GUARD: Final = Loops()
"""What every agent has that does not say otherwise."""

# A recorded step is JSON of whatever kind its source gave.
Recorded = Mapping[str, Any]


def convert(steps: Sequence[Recorded]) -> Iterator[Step]:
    """What counts as an act; `Step.event` is the index. An orchestrator's hand-over notices say the same by design."""
    for index, given in enumerate(steps):
        kind = given["kind"]
        if kind == "tool_call":
            length, head = given["result_len"] or 0, given["result_head"] or ""
            yield Step(
                index,
                given["agent"],
                given["name"],
                given["args"],
                given["result_digest"] or "",
                (head or "failed") if given["error"] else "",
                event=index,
                text=head if length <= HEAD else "",
                unsure=True,
                blank=length <= HEAD and not _WORDS.search(_TAGS.sub("", head)),
            )
        elif kind != "control":
            text = given["text"] or ""
            to = "another" if kind == "message" else ""
            yield Step(index, given["agent"], "", "", text, event=index, text=text, to=to)


def detect(steps: Sequence[Recorded]) -> int | None:
    """The index of the step after which the product's default guard objects, looking only at the steps up to it."""
    return next((finding.evidence[-1] for _, finding in GUARD.findings(convert(steps))), None)
