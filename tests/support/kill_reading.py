"""What a journal says of the runs of `kill_tree`: outcomes by label, and what was cut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Row

Journal = Mapping[str, list[Row]]
"""Rows by stream."""
Place = tuple[str, int, int, int]
"""A call: run, sub-run, step, index."""


@dataclass
class Reading:
    """What the journal says, stream by stream, and what follows from it."""

    rows: Journal = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    intents: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: dict[tuple[str, int], ev.ToolAsked] = field(default_factory=dict)
    """Calls without an outcome that are not in doubt, by run and event."""
    doubted: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Intents, by run and event, that were put in doubt."""

    @property
    def labels(self) -> dict[str, str]:
        """The run of every request."""
        return {label_of(run.subs[0].message): name for name, run in self.runs.items()}

    def learn(self, name: str, rows: list[Row]) -> None:
        """One stream."""
        records = decode_rows(name, rows)
        if not ev.is_run(name):
            return
        self.records[name] = records
        run = self.runs[name] = fold(records)
        calls: dict[Place, Record] = {}
        for record in records:
            event = record.event
            match event:
                case ev.ToolAsked() if not event.sub:
                    calls[name, record.sub, event.step, event.index] = record
                    self.in_flight[name, record.seq] = event
                    self.intents[label_of(event.arguments)] += 1
                case ev.ToolStepped():
                    self.outcomes[event.name] += 1
                case ev.ToolAnswered() if (name, record.sub, event.step, event.index) in calls:
                    self._close(calls[name, record.sub, event.step, event.index])
                case ev.ToolFailed() | ev.ToolRejected():
                    raise AssertionError(f"{record.place}: a call failed: {event}")
                case ev.InDoubt():
                    asked = calls[name, record.sub, event.step, event.index]
                    del self.in_flight[name, asked.seq]
                    self.doubted[name, asked.seq] += 1
                case ev.DoubtSettled():
                    doubt = run.doubts[event.doubt]
                    self.outcomes[label_of(doubt.event.arguments)] += event.did
                case ev.ModelAsked():
                    self.asked[label_of(run.subs[record.sub].message)] += 1
                case _:
                    pass

    def _close(self, asked: Record) -> None:
        event = asked.event
        assert isinstance(event, ev.ToolAsked)
        del self.in_flight[asked.run, asked.seq]
        if event.name != "long":  # its steps have outcomes of their own
            self.outcomes[label_of(event.arguments)] += 1

    def questions(self) -> tuple[list[str], list[str]]:
        """What people are waited for: ids of approvals and of doubts."""
        yeses: list[str] = []
        doubts: list[str] = []
        for run in self.runs.values():
            for sub in run.subs.values():
                if sub.parked is not None and sub.parked.on == "approval" and sub.finished is None:
                    yeses += [name for name in sub.parked.ids if run.approvals[name].state == "pending"]
                if sub.parked is not None and sub.parked.on == "doubt" and sub.finished is None:
                    doubts += [name for name in sub.parked.ids if run.doubts[name].settled is None]
        return yeses, doubts


def label_of(text: str) -> str:
    """The label in the arguments of a call or in a request."""
    fields = json.loads(text)
    return str(fields.get("label") or fields["text"])
