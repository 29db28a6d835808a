"""The model server in a process of its own: it starts, counts, and never outlives who started it."""

import asyncio
import signal
import subprocess
import sys

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import httpx
import msgspec
import pytest
from servers import ECHO, chat, enter, post

from understudy.actors.errors import UnderstudyError, UsageError
from understudy.transports.testing.model_server import (
    ModelServer,
    ModelServerProcess,
    echo,
    main,
    read_billing,
)

MODULE = "understudy.transports.testing.model_server"


def test_the_process_serves_counts_and_ends_with_its_block() -> None:
    async def run() -> None:
        async with ModelServerProcess(ECHO) as server:
            assert (await post(server.url, chat())).json()["choices"][0]["message"]["content"] == "hello"
            assert (await read_billing(server.url)).calls == 1
            url = server.url
        with pytest.raises(httpx.ConnectError):
            await post(url, chat())

    asyncio.run(run())


def start_by_hand() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, "--policy", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_the_process_prints_its_address_and_ends_when_its_input_ends() -> None:
    with start_by_hand() as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = msgspec.json.decode(process.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_in_order_at_a_signal(number: signal.Signals) -> None:
    with start_by_hand() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 0


def test_the_process_does_not_outlive_a_parent_that_is_killed() -> None:
    parent = (
        "import anyio, sys\n"
        "from understudy.transports.testing.model_server import ModelServerProcess\n"
        "async def main():\n"
        f"    async with ModelServerProcess({ECHO!r}) as server:\n"
        "        print(server.url, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    # Parent and server both hold the writing end of stderr: it ends when the last of them has.
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().decode().strip()
        assert asyncio.run(post(url, chat())).status_code == 200
        process.kill()
        assert process.stderr.read() == b""
    with pytest.raises(httpx.ConnectError):
        asyncio.run(post(url, chat()))


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("nothing", "a policy is named module:attribute, not 'nothing'"),
        ("no.such.module:policy", "ModuleNotFoundError"),
        ("understudy.transports.testing.chats:nothing", "has no function nothing"),
    ],
)
def test_a_policy_that_cannot_be_found_is_told_by_parent_and_child(
    policy: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--policy", policy]) == 2
    assert text in msgspec.json.decode(capsys.readouterr().out)["error"]
    with pytest.raises(UsageError, match="the model server did not start") as caught:
        asyncio.run(enter(ModelServerProcess(policy)))
    assert text in str(caught.value)


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> str:
        async with ModelServer(echo) as server:
            port = str(httpx.URL(server.url).port)
            arguments = ["--policy", ECHO, "--port", port]
            assert await anyio.to_thread.run_sync(main, arguments) == 2
            return capsys.readouterr().out

    assert "address" in asyncio.run(run()).lower()


def test_a_process_that_does_not_start_in_time_is_ended() -> None:
    with pytest.raises(UnderstudyError, match="did not start within"):
        asyncio.run(enter(ModelServerProcess(ECHO, start_timeout=0.001)))
