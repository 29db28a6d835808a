"""`kill -9` at seeded instants, life after life, over runs with everything that a kill may cut: see `kill_tree`.

Effects are logged by this process, the driver, and flushed to the disk before it answers; it settles each listed doubt
by that log. Every instant and every end is checked, see `kill_driver`.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from kill_driver import Yard, nursery, play
from kill_life import DEFECTS

SEED = int(os.environ.get("KILL_SEED", "20261123"))
"""Of every instant; another number is another 500."""
INSTANTS = 500
"""Of the campaign, half of them with each durability."""
MOST = 12
"""Kills of one journal."""

HEARD = re.compile(r"inbox: \w+ was not taken: .* already")
"""What is logged of a word in the inbox that was taken just before the process was killed."""

Durability = Literal["normal", "full"]


async def kill_at(
    instants: int, at: Path, seed: str, durability: Durability, least: int = 1, defect: str = ""
) -> Counter[str]:
    """Yards until so many lives were killed, each with at least `least` of them; what they came to.

    With a `defect` the first that is found is enough.
    """
    count: Counter[str] = Counter()
    failures: list[str] = []
    dice = random.Random(seed)
    async with nursery(at / "errors.txt") as born:
        while (killed := count["instants"]) < instants:
            number = count["yards"] = count["yards"] + 1
            yard = Yard(at / str(number), f"{seed}/{number}", durability, born, defect)
            try:
                await play(yard, min(dice.randint(least, MOST), instants - killed))
            except AssertionError as error:
                failures.append(f"yard {number}: {error}")
            finally:
                yard.close()
            count += yard.count
            if defect and failures:
                break
    errors = [line for line in (at / "errors.txt").read_text().splitlines() if not HEARD.search(line)]
    assert not failures, "\n".join([*failures, *errors[-40:]])
    assert not errors, "\n".join(errors[-40:])
    return count


@pytest.mark.promise(269)
@pytest.mark.anyio
async def test_runs_that_are_killed_again_and_again_end_as_they_would_have(tmp_path: Path) -> None:
    count = await kill_at(12, tmp_path, f"{SEED}/few", "normal", least=12)
    assert count["instants"] == 12


@pytest.mark.campaign
@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.anyio
async def test_campaign_of_kills_anywhere(durability: Durability, tmp_path: Path) -> None:
    count = await kill_at(INSTANTS // 2, tmp_path, f"{SEED}/{durability}", durability)
    print(f"\n{durability}, seed {SEED}")
    for name, number in sorted(count.items()):
        print(f"  {name}: {number}")
    assert count["instants"] == INSTANTS // 2


@pytest.mark.campaign
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.anyio
async def test_a_defect_is_found_by_few_kills(defect: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as found:
        await kill_at(200, tmp_path, f"{SEED}/defect", "normal", defect=defect)
    print(f"\n{defect}: {str(found.value).splitlines()[0]}")
