"""B6: creatures of three colours meet in pairs at a mall, M times in all."""

import asyncio
from functools import partial

from benchmarks.case import Case, Found
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, Message, Ref, System


class Meet(Message[None]):
    who: Ref["Meet | Change | Exit"]
    colour: int


class Change(Message[None]):
    colour: int


class Exit(Message[None]): ...


class Count(Message[None]):
    meetings: int
    colour: int


class Begin(Message[None]): ...


class Mall(Actor[Meet | Count]):
    def __init__(self, creatures: int, meetings: int, done: asyncio.Future[Found]) -> None:
        self.left, self.creatures, self.done = meetings, creatures, done
        self.first: Ref[Meet | Change | Exit] | None = None
        self.performed = self.counts = self.reports = 0
        self.colours: set[int] = set()

    def meet(self, m: Meet) -> None:
        if not self.left:
            m.who.tell(EXIT)
        elif self.first is None:
            self.first = m.who
        else:
            self.first.tell(m)
            self.first = None
            self.left -= 1
            self.performed += 1

    def count(self, m: Count) -> None:
        self.counts += m.meetings
        self.reports += 1
        self.colours.add(m.colour)
        if self.reports == self.creatures:
            strange = sorted(self.colours - {0, 1, 2})
            self.done.set_result(
                {
                    "sum_of_counts": self.counts,
                    "reports": self.reports,
                    "meetings": self.performed,
                    "strange_colours": strange,
                }
            )
            self.context.stop()


EXIT = Exit()


class Creature(Actor[Meet | Change | Exit | Begin]):
    def __init__(self, mall: Ref[Meet | Count], colour: int) -> None:
        self.mall, self.colour, self.meetings = mall, colour, 0

    def begin(self, m: Begin) -> None:
        self.me = self.context.ref
        self.mall.tell(Meet(self.me, self.colour))

    def met(self, m: Meet) -> None:
        mine, other = self.colour, m.colour
        self.colour = mine if mine == other else 3 - mine - other
        m.who.tell(Change(self.colour))
        self.meetings += 1
        self.mall.tell(Meet(self.me, self.colour))

    def change(self, m: Change) -> None:
        self.colour = m.colour
        self.meetings += 1
        self.mall.tell(Meet(self.me, m.colour))

    def exit(self, m: Exit) -> None:
        self.mall.tell(Count(self.meetings, self.colour))
        self.context.stop()


class Shy(Creature):
    """Does not count one meeting."""

    def change(self, m: Change) -> None:
        super().change(m)
        self.meetings -= self.meetings == 3


class Hides(Creature):
    """Does not report."""

    def exit(self, m: Exit) -> None:
        if self.meetings > 2:
            self.context.stop()


BUGS: Bugs = {"shy": {Creature: Shy}, "hides": {Creature: Hides}}


async def program(case: Case) -> Found:
    creatures, meetings = case.args
    mall_class, creature = pick(case, Mall, BUGS), pick(case, Creature, BUGS)
    done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        mall = system.spawn(lambda: mall_class(creatures, meetings, done))
        refs = [system.spawn(partial(creature, mall, i % 3)) for i in range(creatures)]
        for ref in refs:
            ref.tell(Begin())
        found = await arrived(case, done, "every creature to report")
        await all_ended(case, system, [mall, *refs])
        case.stop()
    return found
