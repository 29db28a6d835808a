"""The tables of the page on testing say what the code says: every fault, every deviation, every invariant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import understudy.testing
from understudy.actors.testing import agent_strategies, disk_faults, journal_checks, play_invariants
from understudy.actors.testing.faults import Fault, known
from understudy.actors.testing.invariants import SENTENCES
from understudy.actors.testing.schedule import Demote, Hold
from understudy.transports.testing import chats

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without their heads."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


def places(heading: str) -> dict[str, str]:
    """Names of the records of a table, and what they take."""
    return dict(re.findall(r"^`(\w+)\((.*)\)`$", "\n".join(row[0] for row in rows(heading)), re.MULTILINE))


def fields(kind: Any) -> str:
    """As the page writes them."""
    return ", ".join(kind.__struct_fields__)


def kinds() -> dict[str, type[Fault]]:
    """Faults that are no bases of others."""
    return {kind.__name__: kind for kind in known().values() if not kind.__subclasses__()}


def test_every_fault_is_in_the_table_with_its_coordinates_and_no_other() -> None:
    assert places("Faults") == {
        name: fields(kind) for name, kind in kinds().items() if kind.__module__.startswith("understudy.")
    }


def test_every_fault_of_the_table_is_at_the_front_door() -> None:
    assert [name for name in places("Faults") if getattr(understudy.testing, name, None) is not kinds()[name]] == []


def test_the_table_says_which_faults_are_drawn() -> None:
    said = {row[0].strip("`").partition("(")[0]: row[2] for row in rows("Faults")[2:]}
    killing = {kind.__name__ for kind in (disk_faults.KillBefore, disk_faults.KillAfter, disk_faults.TornWrite)}
    for name, kind in kinds().items():
        if name in said:
            drawn = "yes" if kind in agent_strategies.DEFAULT else "by `kills=`" if name in killing else "no"
            assert (name, said[name]) == (name, drawn)


def test_both_deviations_are_in_the_table() -> None:
    assert places("Order") == {kind.__name__: fields(kind) for kind in (Hold, Demote)}


def test_every_invariant_is_in_the_table_with_its_sentence() -> None:
    every = {**SENTENCES, **play_invariants.SENTENCES, **journal_checks.SENTENCES}
    assert {int(row[0]): row[1] for row in rows("Invariants")[2:]} == every


def test_every_answer_of_the_model_server_is_named() -> None:
    (section,) = re.findall(r"^## A model server on loopback\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    answers = [kind.__name__ for kind in (chats.ChatAnswer, *chats.Fault.__args__)]
    assert [name for name in answers if f"`{name}`" not in section] == []
