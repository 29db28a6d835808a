"""Durability profiles: what killing the process and a power cut can lose, in one sentence each. Pure.

A profile is chosen when a system is declared, and refused there where it could not keep a promise: a tool whose call
must not be made twice needs a journal that knows, after a kill, that it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol

from msgspec import Struct

from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal.event import Effect

Durability = Literal["off", "memory", "relaxed", "normal", "full"]
OnDisk = Literal["relaxed", "normal", "full"]
Place = Literal["nowhere", "path", "store"]

LINGER: Final = 0.05
"""Seconds that an event nobody waits for may wait for others to be committed with."""
FLUSH: Final = 0.01
"""The same where nobody ever waits for a commit ("relaxed")."""
REPEATABLE: Final = ("read", "idempotent")
"""Effects that may happen twice."""


class _Acts(Protocol):
    """A tool, for its name and effect."""

    name: str
    effect: Effect


class Profile(Struct, frozen=True):
    """One durability profile. `kill` and `power` say what killing the process and a power cut can lose.

    `linger`: seconds after which an event is committed that nobody waits for. `waits`: whether a barrier waits for the
    commit. `kept`: whether an event can be read back. `on_disk`: whether it outlives the process.
    """

    name: Durability
    kill: str
    power: str
    linger: float = LINGER
    waits: bool = True
    kept: bool = True
    on_disk: bool = True


_ALL: Final = (
    Profile(
        "off",
        kill="loses every run: nothing is kept, and nothing that has ended can be read, replayed or explained",
        power="loses the same",
        kept=False,
        on_disk=False,
    ),
    Profile(
        "memory",
        kill="loses every run: the journal is gone with the process",
        power="loses the same",
        on_disk=False,
    ),
    Profile(
        "relaxed",
        kill="can lose the last 10 ms, more when the disk is late, acknowledged or not: calls in it may be made again",
        power="can lose the last half minute or damage the file, which is then refused and can be salvaged",
        linger=FLUSH,
        waits=False,
    ),
    Profile(
        "normal",
        kill="loses nothing that was acknowledged",
        power="can lose the last commits, acknowledged or not, and calls in them may be made again; a prefix is left",
    ),
    Profile(
        "full",
        kill="loses nothing that was acknowledged",
        power="loses nothing that was acknowledged, if the disk keeps its word about flushed data",
    ),
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({profile.name: profile for profile in _ALL})
"""By name, from the one that keeps nothing to the one that keeps all."""


def profile_of(store: object) -> Profile:
    """The profile that a store names as its `durability`; "normal" for one that names none, or one of its own."""
    return PROFILES.get(getattr(store, "durability", "normal"), PROFILES["normal"])


def chosen(durability: str | None, where: Place) -> Durability:
    """The profile for a journal that is kept nowhere, at a path, or in a store of the caller's.

    None chooses "memory", "normal", and whatever the store does. Raises `UsageError` for an unknown one, and for one
    that does not go with the place.
    """
    if durability is None:
        return "memory" if where == "nowhere" else "normal"
    profile = PROFILES.get(durability)
    if profile is None:
        raise UsageError(f"durability is {durability!r}: it is one of {', '.join(PROFILES)}")
    if where == "store":
        raise UsageError(f"durability is {durability!r}: a store that is passed in has its own; leave it out")
    if profile.on_disk and where == "nowhere":
        raise UsageError(f"durability is {durability!r}: it needs a file, journal=...")
    if not profile.on_disk and where == "path":
        raise UsageError(f"durability is {durability!r}: it keeps nothing on disk; leave journal out")
    return profile.name


def check_effects(profile: Profile, tools: Iterable[_Acts]) -> None:
    """Raise `SpecError` for a tool whose call must not be made twice, where a kill may forget that it was made."""
    if profile.waits or not profile.on_disk:
        return
    for tool in tools:
        if tool.effect not in REPEATABLE:
            raise SpecError(
                f"tool {tool.name!r} is {tool.effect}, and with durability {profile.name!r} a killed process can forget"
                " that it was called: use 'normal' or 'full'"
            )
