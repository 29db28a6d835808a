"""The methods of an event loop that lead outside, refused."""

from __future__ import annotations

import asyncio
from typing import Any

from understudy.actors.testing.outside import refuse

_WHAT = "a socket, pipe, process or signal was asked of the simulated loop"


class NoOutside(asyncio.BaseEventLoop):
    """The base of the simulated loop: what is about files, sockets, processes and signals raises `Escape`."""

    def _refuse(self, *args: Any, **more: Any) -> Any:
        refuse(_WHAT)

    async def _refuse_later(self, *args: Any, **more: Any) -> Any:
        refuse(_WHAT)

    # Each stands for methods of several types.
    _at_once: Any = _refuse
    _later: Any = _refuse_later

    add_reader = remove_reader = add_writer = remove_writer = add_signal_handler = remove_signal_handler = _at_once
    getaddrinfo = getnameinfo = create_connection = create_server = create_datagram_endpoint = _later
    create_unix_connection = create_unix_server = connect_accepted_socket = start_tls = sendfile = _later
    sock_recv = sock_recv_into = sock_recvfrom = sock_sendall = sock_sendto = sock_connect = sock_accept = _later
    sock_sendfile = connect_read_pipe = connect_write_pipe = subprocess_exec = subprocess_shell = _later
