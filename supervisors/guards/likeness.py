"""Whether two texts say the same: without what changes each time, or in nearly the same words. Pure, and cheap."""

from __future__ import annotations

import re
from functools import lru_cache
from string import hexdigits, punctuation, whitespace
from typing import Final

TEXT: Final = 400
"""Characters of talk and of arguments that are compared: the first and the last half of them."""
SLACK: Final = 64
"""Characters by which dates, times and ids may make one text longer than another."""

_NUMBERS: Final = re.compile(
    r"\b(?:[0-9a-f]{8}(?:(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]*)\b|0x[0-9a-f]+)|\d+", re.IGNORECASE
)
_VOLATILE: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # UUIDs
    r"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"  # dates, with or without a time
    r"|\b\d\d?:\d\d:\d\d(?:[.,]\d+)?"  # times of the day
    r"|\b0x[0-9a-f]+|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b"  # addresses, digests, long numbers
    r"|\b\d+(?:\.\d+)? ?(?:[mµun]?s|sec|secs|seconds)\b",  # how long it took
    re.IGNORECASE,
)
_IDS: Final = {ord(each): None for each in f"{hexdigits}{whitespace}-:.,+TZx"}
_SPACES: Final = {ord(each): " " for each in punctuation if each != "_"}


def ends(text: str, limit: int = TEXT) -> str:
    """`text` itself when it has at most `limit` characters, else its first and last half as many."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit // 2) :]}"


@lru_cache(maxsize=1024)
def masked(error: str) -> str:
    """The first 400 characters of an error without what changes each time: numbers, hexadecimal, white space."""
    return " ".join(_NUMBERS.sub("#", error[:400]).split())


def same_but_for_volatile(one: str, other: str) -> bool:
    """Whether two texts are equal once `settled`; without the letters that ids are made of, they are quickly told."""
    if abs(len(one) - len(other)) > SLACK or one.translate(_IDS) != other.translate(_IDS):
        return False
    return settled(one) == settled(other)


@lru_cache(maxsize=256)
def settled(text: str) -> str:
    """A text without dates, times, durations, ids, digests, addresses and the length of its white space.

    Other numbers stay: a count that goes down is news.
    """
    return " ".join(_VOLATILE.sub("#", text).split())


def words(text: str) -> frozenset[str]:
    """The words of a text, in lower case, each once."""
    return frozenset(text.lower().translate(_SPACES).split())


def comparable(one: str, other: str, share: float) -> bool:
    """Whether two texts may be alike, by their length: a quick no that spares counting words."""
    length, longer = (len(one), len(other)) if len(one) < len(other) else (len(other), len(one))
    return min(length, TEXT) + 20 >= 0.7 * share * min(longer, TEXT)


def alike(one: frozenset[str], other: frozenset[str], share: float) -> bool:
    """Whether at least this share (0 to 1) of the words of both is in both; two without words are alike."""
    most, least = (len(one), len(other)) if len(one) > len(other) else (len(other), len(one))
    if least < share * most:
        return False
    shared = len(one & other)
    return shared >= share * (most + least - shared)
