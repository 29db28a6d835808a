"""What a dispatcher keeps for the next: steppers, empty mailboxes, and contexts of busy actors. All bounded."""

from __future__ import annotations

import contextvars
from collections import deque
from typing import Final

from understudy.actors.delivery import DELIVERY, Entry, Life
from understudy.actors.mailbox import Mailbox, Overflow
from understudy.actors.steps import KEPT, Stepper

WARM: Final = 1_024
"""Lives that keep a context for their `def` handlers; the one that was given its own longest ago loses it first."""
WARM_FROM: Final = 8
"""Deliveries after which a life is given one: most actors handle few messages and rest."""


class Reserves:
    """See the module. Contexts are made from `base`."""

    __slots__ = ("_base", "_boxes", "_steppers", "_warm")

    def __init__(self, base: contextvars.Context) -> None:
        self._base = base
        self._steppers: list[Stepper] = []
        self._boxes: list[Mailbox[Entry]] = []
        self._warm = deque[Life]()

    def _take_stepper(self) -> Stepper:
        return self._steppers.pop() if self._steppers else Stepper()

    def _keep(self, stepper: Stepper) -> None:
        if len(self._steppers) < KEPT and stepper.alive:
            self._steppers.append(stepper)

    def take_box(self, limit: int, overflow: Overflow) -> Mailbox[Entry]:
        """An empty mailbox."""
        if not self._boxes:
            return Mailbox(limit, overflow)
        box = self._boxes.pop()
        box.limit, box.overflow = limit, overflow
        return box

    def _warm_up(self, life: Life) -> None:
        """Count a delivery to a `def` handler without a context of its own; make one for a busy actor."""
        life.heat += 1
        if life.heat < WARM_FROM:
            return
        context = self._base.copy()
        context.run(DELIVERY.set, life)
        life.context = context
        self._warm.append(life)
        if len(self._warm) > WARM:
            cold = self._warm.popleft()
            cold.context, cold.heat = None, 0

    def _keep_box(self, box: Mailbox[Entry]) -> None:
        if len(self._boxes) < KEPT:
            self._boxes.append(box)
