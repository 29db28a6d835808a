"""Letting a check that looks at the world see an answer, and journalling what it says. See `checks`."""

from __future__ import annotations

import anyio

from understudy.actors.agents.acting import Acts
from understudy.actors.agents.checks import Look, word
from understudy.actors.agents.commands import CheckOutput, command_digest
from understudy.actors.agents.tools import described
from understudy.actors.agents.trying import is_ours
from understudy.actors.journal import events as ev


async def check_output(acts: Acts, command: CheckOutput) -> None:
    """Make one check. It counts as a tool call; one that raises or takes too long, each time, is skipped."""
    if acts.out_of_time():
        return
    spent = {"tool_calls": 1}
    pools = await acts.take(f"{acts.ticket(command.step)}.{command.check}", spent)
    if pools is None:
        return
    await acts.commit_outcomes()
    began = acts.now()
    error, skipped = await _look(acts, command)
    seconds = round(acts.now() - began, 6)
    digest = command_digest(command)
    acts.append(ev.OutputChecked(command.step, command.check, error, skipped, pools, spent, seconds, digest))


async def _look(acts: Acts, command: CheckOutput) -> tuple[str, str]:
    """(its objection, "") or ("", why it could not look)."""
    agent = acts.agent
    look = agent.checks.looks[command.check]
    skipped = ""
    for number in range(look.retries + 1):
        if number:
            await acts.back_off(number)
        try:
            return await _once(acts, look, agent.output.decode(command.output)), ""
        except BaseException as failure:
            if is_ours(failure):
                raise
            skipped = described(failure)
    return "", skipped


async def _once(acts: Acts, look: Look, value: object) -> str:
    """One try. Raises what the check raises, and `TimeoutError`."""
    seconds = max(0.001, min(look.seconds, acts.seconds_left()))
    with anyio.move_on_after(seconds) as scope:
        return word(look.name, await look.fn(value))
    assert scope.cancelled_caught  # noqa: S101  # else it has returned
    raise TimeoutError(f"no word within {seconds:g} s")
