"""The loop detector on recorded runs of other agents, in the format of the traces: `detect(steps) -> index | None`.

The rules and their thresholds are the product's defaults. What the format does not tell stays unknown: whether a call
changed the world, and the results themselves, of which it has a digest and the first characters.

    python -m benchmarks.traces RUNS.jsonl.gz
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from understudy.actors.agents.guards import Step
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Errors, Idle, Resent, Reworded, Same, Talk

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


def leave_one_out(runs: Sequence[Recorded], grid: Sequence[Loops]) -> tuple[float, float]:
    """(precision, recall) over all labelled runs, each judged by thresholds that were chosen without its source.

    Of the guards in `grid` the one is chosen that is wrong least often on the other sources; of equals the middle one.
    """
    labelled = [run for run in runs if run["labels"]["loop"] is not None and not run["labels"]["borderline"]]
    acts = {run["id"]: list(convert(run["steps"])) for run in labelled}
    alarms = [{run["id"]: guard.detect(acts[run["id"]]) is not None for run in labelled} for guard in grid]
    caught = false = missed = 0
    for source in sorted({run["source"] for run in labelled}):
        others = [run for run in labelled if run["source"] != source]
        wrong = [sum(said[run["id"]] != run["labels"]["loop"] for run in others) for said in alarms]
        equals = [said for said, count in zip(alarms, wrong, strict=True) if count == min(wrong)]
        chosen = equals[len(equals) // 2]
        for run in labelled:
            if run["source"] == source:
                loop, alarm = run["labels"]["loop"], chosen[run["id"]]
                caught, false, missed = (
                    caught + (loop and alarm),
                    false + (alarm and not loop),
                    missed + (loop and not alarm),
                )
    return caught / max(1, caught + false), caught / max(1, caught + missed)


def grid() -> list[Loops]:
    """Thresholds around the defaults, to choose from."""
    chosen = itertools.product((2, 3, 4), (0, 1, 2), (0.7, 0.8, 0.9), (5, 6, 7), (0.4, 0.5, 0.6), (0.6, 0.7, 0.8))
    return [
        Loops(
            Same(times, stray=stray)
            | Reworded(3, alike=alike, any=any_, stray=stray)
            | Errors(6)
            | (Errors(4) & Idle(8))
            | Idle(12)
            | Talk(3, alike=talk)
            | Resent(3, alike=sent, stray=stray)
        )
        for times, stray, alike, any_, talk, sent in chosen
    ]


def main(paths: Sequence[str]) -> None:
    """Print alarms, speed and the score with each source left out, for files of labelled runs (`.jsonl.gz`)."""
    runs: list[Recorded] = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            runs += [json.loads(line) for line in file]
    began = time.process_time()
    found = [detect(run["steps"]) for run in runs]
    took = time.process_time() - began
    read = sum(len(run["steps"]) if at is None else at + 1 for run, at in zip(runs, found, strict=True))
    print(f"{len(runs)} runs, {sum(at is not None for at in found)} alarms, {read / took:,.0f} steps/s of CPU")
    precision, recall = leave_one_out(runs, grid())
    print(f"each source left out of tuning: precision {precision:.3f}, recall {recall:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
