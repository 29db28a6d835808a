"""What would leave a simulated run is refused with the caller's place, and everything is put back afterwards."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import random
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest

from understudy.actors.errors import UsageError
from understudy.actors.testing import outside
from understudy.actors.testing.outside import WALL, Escape, inside
from understudy.actors.testing.simloop import SimLoop, run


def state() -> dict[str, Any]:
    """Everything that a run replaces, as it is now; and the state of chance."""
    swaps = outside._swaps(tuple(name for name, *_ in outside._LATER if name in sys.modules))
    found = {f"{holder.__name__}.{name}": holder.__dict__.get(name) for holder, name, _ in swaps}
    return {**found, "chance": random.getstate()}


# -- ways out --------------------------------------------------------------------------------------------------


def thread() -> None:
    threading.Thread(target=int).start()


def pool() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(int)


def sleep() -> None:
    time.sleep(0)


def process() -> None:
    subprocess.run([sys.executable, "-V"], check=False)


def forked() -> None:
    os.fork()


def system() -> None:
    os.system("true")


def look_up() -> None:
    socket.getaddrinfo("localhost", 80)


def connect() -> None:
    socket.create_connection(("127.0.0.1", 9))


def bind() -> None:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))


def handler() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def clock() -> None:
    time.clock_gettime(time.CLOCK_MONOTONIC)


def ready() -> None:
    select.select([], [], [], 0)


def loop_of_its_own() -> None:
    asyncio.new_event_loop()


def sync_client() -> None:
    httpx.get("http://127.0.0.1:9/")


def event_of_threads() -> None:
    threading.Event().wait(0.01)


def queue_of_threads() -> None:
    queue.Queue[int]().get(timeout=0.01)


SYNC = (
    thread,
    pool,
    sleep,
    process,
    forked,
    system,
    look_up,
    connect,
    bind,
    handler,
    clock,
    ready,
    loop_of_its_own,
    sync_client,
    event_of_threads,
    queue_of_threads,
)


@pytest.mark.promise(189)
@pytest.mark.parametrize("way", SYNC, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_way_out_raises_and_names_the_line_that_took_it(way: Callable[[], None], where: str) -> None:
    async def main() -> None:
        if where == "loop":
            way()
        else:
            await asyncio.to_thread(way)

    before = state()
    with pytest.raises(Escape) as caught:
        run(main)
    assert state() == before
    assert f"{__file__}:" in str(caught.value)
    assert f" {way.__name__};" in str(caught.value)


async def tcp() -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def by_name() -> None:
    await anyio.connect_tcp("localhost", 9)


async def listen() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def client() -> None:
    async with httpx.AsyncClient() as each:
        await each.get("http://127.0.0.1:9/")


async def command() -> None:
    await asyncio.create_subprocess_exec("true")


async def anyio_command() -> None:
    await anyio.run_process(["true"])


async def loop_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, int)


async def reader() -> None:
    asyncio.get_running_loop().add_reader(0, int)


async def processes() -> None:
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        await asyncio.get_running_loop().run_in_executor(executor, int)


ASYNC = (tcp, by_name, listen, client, command, anyio_command, loop_signal, reader, processes)


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


@pytest.mark.promise(189)
@pytest.mark.parametrize("way", ASYNC, ids=lambda way: str(way.__name__))
def test_a_way_out_of_the_loop_raises_and_names_a_place(way: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await way()

    before = state()
    with pytest.raises((Escape, ExceptionGroup)) as caught:
        run(main)
    assert state() == before
    errors = leaves(caught.value)
    assert all(isinstance(error, Escape) for error in errors)
    assert f"{__file__}:" in str(errors[0])
    assert (way in (tcp, client)) == ("in its task 'anyio." in str(errors[0]))  # these happen in a task of anyio's


@pytest.mark.promise(189)
def test_uvloop_cannot_be_simulated_and_says_so() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        uvloop.new_event_loop()

    with pytest.raises(Escape, match="another event loop was made"):
        run(main)


@pytest.mark.promise(189)
def test_from_thread_raises_where_a_thread_would_be_served() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        token = anyio.lowlevel.current_token()

        def asks_anyio() -> None:
            anyio.from_thread.run(anyio.sleep, 0)

        def asks_with_token() -> None:
            anyio.from_thread.run_sync(int, token=token)

        def asks_asyncio() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

        said: list[str] = []
        for each in (asks_anyio, asks_with_token, asks_asyncio):
            with pytest.raises(Escape) as caught:
                await anyio.to_thread.run_sync(each)
            said.append(str(caught.value))
        return said

    said = run(main)
    assert all("in a function for a thread, which runs inline" in each and __file__ in each for each in said)


def test_words_for_the_loop_from_a_function_for_a_thread_arrive() -> None:
    async def main() -> list[str]:
        loop, heard = asyncio.get_running_loop(), list[str]()
        await asyncio.to_thread(loop.call_soon_threadsafe, heard.append, "heard")
        await asyncio.sleep(0)
        return heard

    assert run(main) == ["heard"]


# -- other threads ---------------------------------------------------------------------------------------------


@pytest.mark.promise(189)
def test_other_threads_of_the_process_keep_the_real_world() -> None:
    """A loopback server, a watchdog, a test runner's own thread go on while a simulated run is under way."""
    go, gone = threading.Event(), threading.Event()
    seen: dict[str, object] = {}

    def real() -> None:
        go.wait(60)
        began = time.monotonic()
        time.sleep(0.001)
        seen["slept"] = time.monotonic() - began
        seen["bytes"] = os.urandom(8) != os.urandom(8)
        one, other = socket.socketpair()
        with one, other:
            one.sendall(b"x")
            seen["got"] = other.recv(1)
        other_loop = asyncio.new_event_loop()
        other_loop.run_until_complete(asyncio.sleep(0))
        other_loop.close()
        try:
            with inside():
                pass
        except UsageError as error:
            seen["refused"] = str(error)
        gone.set()

    worker = threading.Thread(target=real)
    worker.start()
    gone_at_all = gone.is_set

    async def main() -> None:
        go.set()
        for _ in range(3_000_000):
            if gone_at_all():
                return
            await asyncio.sleep(0.1)

    try:
        run(main)
    finally:
        worker.join(60)
    assert seen["got"] == b"x"
    assert 0.0005 < float(str(seen["slept"])) < 60
    assert seen["bytes"] is True
    assert "one at a time" in str(seen["refused"])


@pytest.mark.promise(189)
def test_another_thread_that_calls_into_the_loop_is_refused() -> None:
    go, errors = threading.Event(), list[BaseException]()
    loop = SimLoop()

    def call() -> None:
        go.wait(60)
        try:
            loop.call_soon_threadsafe(int)
        except Escape as error:
            errors.append(error)
        except RuntimeError:  # it was closed already
            errors.append(Escape("closed"))

    worker = threading.Thread(target=call)
    worker.start()

    async def main() -> None:
        go.set()
        while not errors:  # noqa: ASYNC110  # what a thread does is waited for
            await asyncio.sleep(0.1)

    try:
        run(main, loop=loop)
    finally:
        worker.join(60)
    assert "another thread called into the simulated loop" in str(errors[0])


# -- clocks and chance -----------------------------------------------------------------------------------------


def test_the_clocks_of_time_tell_virtual_time_also_in_functions_for_threads() -> None:
    def read() -> tuple[float, ...]:
        return time.time(), time.monotonic(), time.perf_counter(), time.process_time(), time.thread_time()

    async def main() -> None:
        await asyncio.sleep(10)
        assert read() == (WALL + 10.0, 10.0, 10.0, 10.0, 10.0)
        assert (time.time_ns(), time.monotonic_ns()) == (WALL * 10**9 + 10**10, 10**10)
        assert time.gmtime()[:6] == time.gmtime(WALL + 10)[:6]
        assert time.ctime() == time.ctime(WALL + 10)
        later = await asyncio.to_thread(read)
        assert later[1] == 10.001

    before = time.monotonic()
    run(main)
    assert time.monotonic() >= before


def test_chance_is_seeded_and_put_back() -> None:
    async def main() -> list[object]:
        return [
            random.random(),
            random.Random().random(),
            random.SystemRandom().random(),
            os.urandom(4),
            uuid.uuid4(),
            secrets.token_hex(4),
            [random.seed(), random.random()],
        ]

    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = run(main)
    assert random.random() == expected
    assert run(main) == first
    with inside(seed=1):
        assert run(main) != first
    assert len({repr(each) for each in first}) == len(first)
    assert os.urandom(16) != os.urandom(16)


@pytest.mark.promise(189)
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit, Escape])
def test_everything_is_put_back_whatever_was_raised(error: type[BaseException]) -> None:
    before = state()
    with pytest.raises(error), inside():
        raise error
    assert state() == before


def test_what_the_program_itself_replaced_meanwhile_is_put_back_as_well() -> None:
    before = state()
    with inside():
        time.sleep = int  # type: ignore[assignment]
        del socket.socket.connect
    assert state() == before
