"""How a system reaches other nodes: what users give, checked, and made into a network. sockets are imported lazily."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from understudy.actors.clock import Dice
from understudy.actors.errors import SpecError
from understudy.actors.remote.nodes import Nodes, Rules, check_node_name

if TYPE_CHECKING:
    from understudy.transports.links.allow import Allow
    from understudy.transports.links.keys import LinkSecret
    from understudy.transports.links.network import Network
    from understudy.transports.links.ports import Port, Tls

Given = bytes | str | PathLike[str]
"""A secret, or the file that holds it (a `Path`)."""
Place = "str | Port"
Listen = Any
"""An address ("tcp://host:port", "tls://…", "unix:///path"), a `Port`, or several. Any: the types are imported late."""
Join = Any
"""Addresses, or a mapping of node names to addresses."""


class Reach(Struct, frozen=True):
    """What was given. Addresses are texts, or ports already."""

    name: str
    listen: tuple[Any, ...]
    join: tuple[tuple[str, Any], ...]
    secret: Any
    tls: Any
    rules: Rules


def reach(
    name: str | None,
    listen: Listen,
    join: Join,
    secret: Given | None,
    tls: Tls | None,
    allow: Mapping[str, Allow] | None,
) -> Reach | None:
    """What was given, checked as far as it can be before the start; None for a system without other nodes.

    Raises `SpecError`.
    """
    listens = _places(listen, "listen")
    joins = _joins(join)
    if not listens and not joins and name is None:
        for what, value in (("secret", secret), ("tls", tls), ("allow", allow)):
            if value is not None:
                raise SpecError(f"{what}= without listen= or join=")
        return None
    chosen = check_node_name(name if name is not None else _host_name())
    if chosen in dict(joins):
        raise SpecError(f"join: {chosen!r} is this node itself")
    from understudy.transports.links.allow import AllowList

    return Reach(chosen, listens, joins, secret, tls, AllowList(allow))


def _host_name() -> str:
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in socket.gethostname())[:64] or "node"


def _places(given: Any, what: str) -> tuple[Any, ...]:
    if isinstance(given, str) or hasattr(given, "dial"):
        given = (given,)
    if not isinstance(given, Sequence):
        raise SpecError(f"{what}={given!r}: an address, or several")
    return tuple(given)


def _joins(given: Any) -> tuple[tuple[str, Any], ...]:
    if isinstance(given, Mapping):
        return tuple((check_node_name(name), place) for name, place in given.items())
    return tuple(("", place) for place in _places(given, "join"))


def network_of(reach: Reach, nodes: Nodes, journal: str | None, dice: Dice) -> Network:
    """The network of a system; `journal`: the path of its journal. Raises `SpecError`."""
    from understudy.transports.links.keys import LinkSecret, link_secret
    from understudy.transports.links.network import Network

    ready = all(not isinstance(place, str) for place in (*reach.listen, *(place for _, place in reach.join)))
    secret = link_secret(reach.secret, journal=journal, make=bool(reach.listen))
    if secret is None and ready:  # within one process
        secret = LinkSecret(b"within one process")
    return Network(
        nodes,
        _needed(secret),
        listen=tuple(_port(place, secret, reach.tls, listens=True) for place in reach.listen),
        join=tuple((name, _port(place, secret, reach.tls, listens=False)) for name, place in reach.join),
        dice=dice,
    )


def _needed(secret: LinkSecret | None) -> LinkSecret:
    from understudy.transports.links.keys import SOURCES

    if secret is None:
        raise SpecError(f"no secret, so no peer could be known; {SOURCES}")
    return secret


def _port(place: Any, secret: Any, tls: Any, *, listens: bool) -> Port:
    from understudy.transports.links.addresses import parse
    from understudy.transports.links.ports import SocketPort

    if not isinstance(place, str):
        port: Port = place
        return port
    return SocketPort(parse(place), _needed(secret), tls, listens=listens)
