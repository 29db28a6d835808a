"""What must hold of every cell between two turns of the event loop, and a way to look at each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from understudy.actors.cell import BUSY, IDLE, QUEUED, Cell
from understudy.actors.kernel import Kernel
from understudy.actors.stash import Held


def cells(kernel: Kernel) -> Iterator[Cell]:
    """Every address, parents first."""
    return iter(kernel.registry)


def check(kernel: Kernel) -> None:
    """Raise `AssertionError` for what may not be between two turns."""
    dispatcher = kernel.dispatcher
    ready = list(dispatcher.ready)
    assert len({id(cell) for cell in ready}) == len(ready), f"in the run queue twice: {ready}"
    queued = {id(cell) for cell in ready}
    known = {id(cell) for cell in cells(kernel)}
    for cell in ready:
        assert cell.status == QUEUED, f"{cell} is in the run queue, with status {cell.status}"
        assert id(cell) in known or cell.state == "stopped", f"{cell} is in the run queue, and forgotten"
    for cell in cells(kernel):
        check_cell(cell, queued=id(cell) in queued)
    check_workers(kernel)


def check_cell(cell: Cell, *, queued: bool) -> None:
    """Of one address, which is in the run queue or is not."""
    life, what = cell.life, f"{cell} status={cell.status} plain={cell.plain} waiting={cell.waiting}"
    assert (cell.status == QUEUED) == queued, f"queued or not? {what}"
    assert not cell.runnable() or cell.status == QUEUED, f"could begin something and is not scheduled: {what}"
    assert cell.mailbox is None or cell.first is None, f"messages wait in two places: {what}"
    if cell.status == IDLE:
        assert cell.plain, f"idle, and not plain: {what}"
        assert cell.waiting == 0, f"idle with waiting messages: {what}"
        assert cell.running == 0, f"idle with a running handler: {what}"
    if cell.plain:
        assert cell.state == "running", what
        assert cell.concurrency == 1, what
        assert life is not None, what
        assert life.ready, what
        assert not cell.leaving, what
        assert cell.idle is None, what
        assert cell.status != BUSY or cell.running, f"busy with nothing: {what}"
    if life is not None:
        assert life.current is None, f"in the first step between two turns: {what}"
        assert cell.running <= max(1, cell.concurrency), f"{cell.running} handlers at once: {what}"
        assert life.tasks is None or life.tasks, what
        for envelope, task in (life.tasks or {}).items():
            assert not task.done(), f"{envelope} runs on a task that is done: {what}"
            assert envelope.life is life, what
        if not life.fenced:
            assert life.cell is cell, what
            assert life.number == cell.number, what
    else:
        assert cell.state in ("failed", "stopping", "stopped", "new"), f"no life: {what}"
    if cell.state in ("starting", "running", "suspended"):
        assert life is not None, what
    if cell.mailbox is not None:
        mailbox = cell.mailbox
        for entry in mailbox.work if cell.concurrency > 1 else ():  # else what is in hand keeps the next from beginning
            assert not isinstance(getattr(entry, "reply", None), Held), f"in the mailbox, and in hand: {what}"
        assert not (mailbox.waiting and len(mailbox.work) < mailbox.limit), f"room, and senders that wait: {what}"


def check_workers(kernel: Kernel) -> None:
    """Of the workers and what is kept for them."""
    dispatcher = kernel.dispatcher
    owner = dispatcher._owner
    assert owner is None or owner in dispatcher._tasks or owner.done(), "the owner of the queue is not a worker"
    if dispatcher.ready and not dispatcher._closing:
        assert owner is not None, "nobody owns the queue"
        wake = dispatcher.wake
        assert wake is None or wake.done(), "something is ready, and nobody is woken"
    assert dispatcher._depth == 0
    parked = [spare.task for spare in dispatcher._spares]
    assert len(set(parked)) == len(parked), "a spare twice"
    for spare in dispatcher._spares:
        assert spare.suspended is None, "a spare with a handler"
        assert not spare.retire, "a spare that is to retire"
        assert spare.task is not owner, "the owner is a spare"
    for stepper in dispatcher._steppers:
        assert stepper.alive
    assert len({id(stepper) for stepper in dispatcher._steppers}) == len(dispatcher._steppers)
    boxes = [id(box) for box in dispatcher._boxes]
    assert len(set(boxes)) == len(boxes), "a mailbox twice in the pool"
    for box in dispatcher._boxes:
        assert box.unused, "a mailbox in the pool that holds something"
    for cell in cells(kernel):
        assert id(cell.mailbox) not in boxes, f"{cell}: its mailbox is in the pool"


def watch(kernel: Kernel, note: Callable[[BaseException], None]) -> Callable[[], None]:
    """Check again and again, at every turn of the loop, until the first that fails. Returns a way to end it."""
    loop = asyncio.get_running_loop()
    handle: list[asyncio.Handle] = []

    def look() -> None:
        try:
            check(kernel)
        except BaseException as error:
            note(error)
            return
        handle[:] = [loop.call_soon(look)]

    look()
    return lambda: handle[0].cancel() if handle else None
