"""`python -m benchmarks gate`: has a ratio to the floor grown by more than the threshold since the baseline?

Ratios travel between machines, times do not. `--update` writes the baseline; a row that is not in it is shown and
not judged, and one of the baseline that was not run is not missed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from benchmarks.driver import Row
from benchmarks.reference import floor_digest

BASELINE: Final = Path(__file__).parent / "baseline.json"
THRESHOLD: Final = 0.15
Ratios = dict[str, float]


class NoBaseline(Exception):
    """There is nothing to compare with; the text says why."""


@dataclass(frozen=True)
class Verdict:
    """One row beside its baseline; `allowed` is None where there is none."""

    title: str
    ratio: float
    allowed: float | None

    @property
    def worse(self) -> bool:
        """Beyond what is allowed."""
        return self.allowed is not None and self.ratio > self.allowed


def title_of(row: Row) -> str:
    """`threadring:tell/def@medium`."""
    return f"{row['name']}:{row['params']['line']}/{row['variant']}@{row['size']}"


def ratios_of(rows: list[Row]) -> Ratios:
    """The ratios of our rows that have one."""
    return {title_of(row): row["floor_ratio"] for row in rows if row["impl"] == "ours" and row["floor_ratio"]}


def load(path: Path) -> Ratios:
    """Read a baseline. Raises `NoBaseline`."""
    try:
        baseline = json.loads(path.read_text(encoding="utf-8"))
        ratios: Ratios = baseline["ratios"]
        digest = baseline["floor_digest"]
    except (OSError, ValueError, KeyError) as error:
        raise NoBaseline(f"{path.name}: {type(error).__name__}; `gate --update` writes one") from error
    if digest != floor_digest():
        raise NoBaseline(f"{path.name} is of the floor {digest}, this one is {floor_digest()}; `gate --update`")
    return ratios


def save(path: Path, ratios: Ratios) -> None:
    """Write a baseline; rows that were not run keep what they had."""
    try:
        kept = load(path)
    except NoBaseline:
        kept = {}
    content = {"floor_digest": floor_digest(), "ratios": dict(sorted((kept | ratios).items()))}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def judge(ratios: Ratios, baseline: Ratios) -> list[Verdict]:
    """Each ratio with what is allowed."""
    allowed = {title: value * (1 + THRESHOLD) for title, value in baseline.items()}
    return [Verdict(title, ratio, allowed.get(title)) for title, ratio in ratios.items()]


def report(verdicts: list[Verdict], out: TextIO) -> int:
    """Print one line each; 1 if one is worse, else 0."""
    for each in verdicts:
        word = "new" if each.allowed is None else "WORSE" if each.worse else "ok"
        limit = "" if each.allowed is None else f"  allowed {each.allowed:.3f}"
        print(f"{word:<6}{each.title:<44}{each.ratio:>8.3f}{limit}", file=out)
    return int(any(each.worse for each in verdicts))
