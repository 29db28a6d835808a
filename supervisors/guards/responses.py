"""The ladder: what is done about a loop, and how it gets stronger.

The first finding of a loop answers with rung 0. After a rung has fired, one further occurrence of the same
evidence climbs one rung; at the last rung it stays. The responses are data and live in
`understudy.actors.agents.guards`, for the runtime that carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from understudy.actors.agents.guards import Nudge, Response, Restart, Restrict, Stop, Verdict
from understudy.actors.errors import SpecError
from understudy.supervisors.checks import check_count, check_number

RESPONSES: Final[tuple[type, ...]] = get_args(Response)
LADDER: Final[tuple[Response, ...]] = (Nudge(), Restart(), Stop())
"""The default: say what repeats, then restart with an altered context, then stop with the partial result kept."""


def check_ladder(ladder: Sequence[object]) -> None:
    """Raise `SpecError` unless `ladder` has at least one rung and every rung is a response with usable values."""
    if not ladder:
        raise SpecError("Loops.ladder must have at least one rung, got none")
    for rung, response in enumerate(ladder):
        if not isinstance(response, RESPONSES):
            names = ", ".join(f"{one.__name__}()" for one in RESPONSES)
            raise SpecError(f"Loops.ladder[{rung}] must be one of {names}, got {response!r}")
        if isinstance(response, Restrict):
            check_count(f"Loops.ladder[{rung}].steps", response.steps, least=1)
        if isinstance(response, Restart) and response.temperature is not None:
            check_number(f"Loops.ladder[{rung}].temperature", response.temperature)
        if isinstance(response, Restart) and not isinstance(response.model, str):
            raise SpecError(
                f"Loops.ladder[{rung}].model must be the name of a model that the agent has, got {response.model!r}"
            )


def next_rung(ladder: Sequence[Response], past: Sequence[Verdict], key: str) -> tuple[int, Response]:
    """The rung, counted from 0, and the response for one more occurrence of the loop `key` after `past`."""
    fired = [verdict.rung for verdict in past if verdict.key == key]
    rung = min(max(fired) + 1, len(ladder) - 1) if fired else 0
    return rung, ladder[rung]


def word(response: Response) -> str:
    """The response as a word for people: nudge, restrict, conclude, restart, escalate or stop."""
    return type(response).__name__.lower()
