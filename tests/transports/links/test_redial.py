"""Who is dialled again, and when: whatever a stranger says, and whatever two nodes do at once."""

import asyncio
from itertools import pairwise

import pytest
from wires import HubWires, network

from understudy.actors.testing.simloop import run
from understudy.transports.links.greetings import REFUSE, Refusal, refuse_body
from understudy.transports.links.network import Redial
from understudy.transports.links.pipes import Hub
from understudy.transports.links.sockets import Timing
from understudy.transports.links.wire import Outgoing
from understudy.transports.testing.link_kit import Echo, Meeting, Note, Seen


class Refuses(asyncio.Protocol):
    """A stranger who answers everybody with one refusal."""

    def __init__(self, refusal: Refusal, times: list[float]) -> None:
        self.refusal = refusal
        self.times = times

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.times.append(asyncio.get_running_loop().time())
        out = Outgoing()
        out.frame(REFUSE, refuse_body(self.refusal))
        transport.write(out.take())


@pytest.mark.promise(341)
@pytest.mark.parametrize("reason", ["self", "secret", "stale", "version", "name", "full"])
def test_a_stranger_cannot_keep_a_node_from_dialling_again(reason: str) -> None:
    async def main() -> None:
        hub, times = Hub(), list[float]()
        hub.listeners["a"] = lambda: Refuses(Refusal(reason, "go away"), times)  # type: ignore[arg-type]
        met = Meeting(HubWires(hub))
        async with met.stack:
            b = await met.node("b", "a", wait=False)
            while not times:  # noqa: ASYNC110  # in virtual time
                await asyncio.sleep(1.0)
            del hub.listeners["a"]
            await met.node("a")
            await b.nodes.wait("a", up=True, seconds=120.0)

    run(main)


@pytest.mark.promise(341)
def test_a_stranger_is_not_dialled_more_often_than_the_back_off_says() -> None:
    async def main() -> None:
        hub, times = Hub(), list[float]()
        hub.listeners["a"] = lambda: Refuses(Refusal("secret", "go away"), times)
        met = Meeting(HubWires(hub))
        async with met.stack:
            b = await met.node("b")
            made = await network(b.nodes, (), (("a", hub.port("b", "a")),), redial=Redial(1.0, 8.0), timing=Timing())
            met.stack.push_async_callback(made.aclose)
            await asyncio.sleep(300.0)
            between = [later - at for at, later in pairwise(times)]
            assert len(times) > 30
            assert all(wait >= 0.8 * min(8.0, 2.0**n) for n, wait in enumerate(between)), between
            assert max(between) <= 8.0 * 1.2 + 1e-3

    run(main)


@pytest.mark.promise(341)
def test_a_reliable_message_waits_for_the_first_link() -> None:
    async def main() -> None:
        wires = HubWires()
        met = Meeting(wires)
        async with met.stack:
            a = await met.node("a", "b", wait=False)
            sent = [asyncio.create_task(a.ref("b/clerk").send(Note("x", n), reliable=True)) for n in range(3)]
            await asyncio.sleep(0.5)
            b = await met.node("b")
            clerk = b.spawn("clerk")
            assert await asyncio.gather(*sent) == [True] * 3
            assert [n for _, n in await clerk.ask(Seen())] == [0, 1, 2]

    run(main)


@pytest.mark.promise(341)
def test_two_nodes_that_dial_each_other_at_once_have_one_link_that_stays() -> None:
    async def main() -> None:
        hub = Hub()
        met = Meeting(HubWires(hub))
        async with met.stack:
            a = await met.node("a", "b", wait=False)
            b = await met.node("b", "a", wait=False)
            a.spawn("clerk")
            await a.met("b")
            await b.met("a")
            await asyncio.sleep(200.0)
            ups = [sum(change.up for change in node.changes) for node in (a, b)]
            assert max(ups) <= 2, "at most one is replaced by the other"
            assert len(hub.pipes) == 2
            assert await b.ref("a/clerk").ask(Echo(b"one")) == b"one"

    run(main)
