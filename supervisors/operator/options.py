"""Where a command connects to, and what it knows of the agents there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

DEMO: Final = "understudy.demo"
"""Value of a journal's meta entry `app` by which the built-in demo is recognised."""


class ConnectOptions(Struct, frozen=True):
    """Where to connect: the journal's file, the app as `module:attribute` (None: see `meta`), the journal's meta.

    `guards`: whose guards the agents are under, as `module:attribute`; None for those of the app.
    """

    journal: str
    app: str | None
    meta: Mapping[str, str] = field(default_factory=dict[str, str])
    guards: str | None = None

    @property
    def runnable(self) -> bool:
        """Whether it is known which agents to run: an app was named, or the journal is the demo's."""
        return self.app is not None or self.meta.get("app") == DEMO
