"""Rows for people: one line each, and the ratios that the JSON carries."""

from __future__ import annotations

from typing import Any, TextIO

from benchmarks.driver import Row

HEAD = f"{'benchmark':<24}{'impl':<15}{'cpu ms':>10}{'us/op':>11}{'op/s':>12}{'x floor':>9}  others' ratios, notes"


class Table:
    """Prints rows as they come; a line of a benchmark begins with its name."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def add(self, row: Row) -> None:
        """Print one row."""
        if not self._last:
            print(HEAD, file=self._out)
        title = f"{row['name']}:{row['params']['line']}"
        shown = "" if title == self._last else title
        self._last = title
        impl = f"{row['impl']}/{row['variant']}" if row["variant"] else str(row["impl"])
        print(f"{shown:<24}{impl:<15}{self._numbers(row)}", file=self._out, flush=True)

    def _numbers(self, row: Row) -> str:
        if row["ok"] is None:
            return f"  {row['error']}"
        if not row["ok"]:
            return f"  FAILED: {row['error']}"
        floor = "" if row["floor_ratio"] is None else f"{row['floor_ratio']:.3f}"
        extra: dict[str, Any] = row["extra"]
        cpu = f"{row['cpu'] * 1e3:>10.1f}{extra['cpu_us_per_op']:>11.3f}"
        return f"{cpu}{row['ops_per_s']:>12,}{floor:>9}  {_notes(row)}"


OFTEN = ("floor_digest", "cpu_us_per_op", "ratios", "runs")


def _notes(row: Row) -> str:
    parts = [
        f"x{ratio:.2f} {name}"
        for name, ratio in row["extra"]["ratios"].items()
        if row["impl"] == "ours" and name != "floor" and not name.startswith("ours")
    ]
    parts += [f"{key}={_shown(value)}" for key, value in row["extra"].items() if key not in OFTEN]
    return "  ".join(parts)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
