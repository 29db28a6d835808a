"""Which actor an event of a run belongs to. Pure."""

from __future__ import annotations

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.supervisors.operator.text import name_of


class Paths:
    """Follows a stream: an event without a path of its own belongs to the actor that has its (sub-)run.

    Until an actor has taken a (sub-)run up, its agent's name stands for the path.
    """

    def __init__(self) -> None:
        self.holders: dict[int, str] = {}

    def of(self, record: Record) -> str:
        """The path of the actor of `record`; call it for every event, in order."""
        event = record.event
        if isinstance(event, ev.AttemptStarted):
            self.holders[record.sub] = record.path
        elif isinstance(event, ev.RunStarted | ev.SubStarted):
            self.holders.setdefault(record.sub, event.agent)
        path = record.path or self.holders.get(record.sub, "")
        if isinstance(event, ev.HandedOff):
            self.holders[record.sub] = event.to
        return path


def is_actor(path: str, wanted: str) -> bool:
    """Whether `wanted` names the actor at `path`: by path, by the name people see, or all members of a pool."""
    if wanted in (path, name_of(path)):
        return True
    parent, _, last = path.rpartition("/")
    return last.isdigit() and wanted in (parent, parent.rpartition("/")[2])
