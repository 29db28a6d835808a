"""What a (sub-)run keeps of itself when its agent has crashed on it and was restarted: a memory policy. Pure.

`last_step` (default): everything; it goes on as if nothing had happened. `note`: everything, and the agent is told what
failed. `checkpoint`: what the agent's `checkpoint` hook makes of it, as a note in the place of the exchanges. `fresh`:
nothing; it begins again with the request. No policy drops anything before the last change of the world, a delegation
included: who forgot a payment would make it again. What was in flight is settled first, by its effect.

A verdict that restarts has its own alteration (`guards.Restart`), and the end of the process is nobody's failure:
neither asks this policy.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from understudy.actors.agents.commands import Recall
from understudy.actors.errors import SpecError
from understudy.actors.journal.state import Sub

Memory = Literal["last_step", "note", "checkpoint", "fresh"]

FAILED: Final = (
    "Note from the supervisor: a former attempt failed after step {step}: {crash}. What was done is above. If it can be"
    " avoided, take another way."
)
CHECKPOINT: Final = (
    "Note from the supervisor: a former attempt failed. This is what it had got so far; go on from there: {checkpoint}"
)


def check_memory(where: str, memory: str) -> None:
    """Raise `SpecError` for a policy that there is not."""
    if memory not in get_args(Memory):
        raise SpecError(f"{where}: memory {memory!r}; one of {', '.join(get_args(Memory))}")


def recall(sub: Sub, memory: Memory, checkpoint: str) -> Recall | None:
    """What follows from a crash under a policy; None when everything stays as it is. `checkpoint` is "" for none."""
    if not sub.crash or memory == "last_step":
        return None
    if memory == "note":
        return Recall(memory, FAILED.format(step=sub.answered, crash=sub.crash), sub.step + 1, 0)
    rewind_to = landed(sub, delegations=True)
    dropped = sum(1 for turn in sub.turns if turn.step >= rewind_to)
    note = CHECKPOINT.format(checkpoint=checkpoint) if memory == "checkpoint" and checkpoint else ""
    return Recall(memory, note, rewind_to, dropped)


def landed(sub: Sub, *, delegations: bool = False) -> int:
    """The first step that may be rewound: the one after the last call that changed the world.

    `delegations`: those count, too, since nobody here knows what they did.
    """
    for turn in reversed(sub.turns):
        for call in turn.calls:
            asked = call.asked
            if call.ok and asked is not None and (asked.effect != "read" or (delegations and asked.sub)):
                return turn.step + 1
    return 0
