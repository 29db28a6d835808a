"""The demo as an app: from its options, or from what a journal says of them, to a running system.

The options travel in the request of every run, so a run can be replayed with the team it had; the journal's meta
holds those of the newest.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import msgspec

from understudy.actors.agents.models import Model, Price
from understudy.actors.errors import UsageError
from understudy.actors.journal.events import Record, RunStarted
from understudy.demo.messages import SCRIPTED, Audit, Options
from understudy.demo.team import team
from understudy.system import System
from understudy.transports.models.openai import OpenAIChat

__all__ = [
    "APP",
    "POLICY",
    "PROVIDED",
    "SCRIPTED",
    "Options",
    "Served",
    "default_model",
    "meta",
    "model_for",
    "offline",
    "open_demo",
    "options_of",
    "options_of_run",
    "team",
]

APP = "understudy.demo"
"""The app's name in a journal's meta."""
POLICY = "understudy.demo.policy:policy"
"""What the scripted model is served from, as `module:attribute`."""
PROVIDED = "gpt-5-mini"
"""The model of a real provider, unless `UNDERSTUDY_DEMO_MODEL` names another."""
PRICE = Price(250_000, 2_000_000)
"""What the scripted model would cost, were it `gpt-5-mini`: so that the money is counted too."""


@dataclass(frozen=True)
class Served:
    """A model to give to the team. `url` is set when its server is ours, which can be asked what it billed."""

    model: Model
    url: str = ""


def default_model() -> str:
    """The model by the environment: a provider's with `OPENAI_API_KEY`, else the scripted one."""
    if not os.environ.get("OPENAI_API_KEY"):
        return SCRIPTED
    return os.environ.get("UNDERSTUDY_DEMO_MODEL") or PROVIDED


def meta(options: Options) -> dict[str, str]:
    """What the journal keeps, so that another process can build the team again."""
    return {"app": APP, "app_options": msgspec.json.encode(options).decode()}


def options_of(meta: Mapping[str, str]) -> Options:
    """The options in a journal's meta. Raises `UsageError` when it is not the demo's."""
    if meta.get("app") != APP:
        raise UsageError(f"the journal was not written by the demo, but by {meta.get('app') or 'an unnamed app'!r}")
    try:
        return msgspec.json.decode(meta.get("app_options", ""), type=Options)
    except msgspec.MsgspecError as error:
        raise UsageError(f"the journal's meta entry app_options cannot be read: {error}") from error


def options_of_run(records: list[Record]) -> Options:
    """The options a run was started with, from its stream. Raises `UsageError` when it is not the demo's."""
    first = records[0].event if records else None
    try:
        if isinstance(first, RunStarted) and first.type == Audit.__name__:
            return msgspec.json.decode(first.message, type=Audit).options
    except msgspec.MsgspecError as error:
        raise UsageError(f"run {records[0].run}: its request cannot be read: {error}") from error
    raise UsageError("the run was not started by the demo")


@asynccontextmanager
async def model_for(options: Options) -> AsyncGenerator[Served]:
    """The model that `options` name. The scripted one gets a server in a process of its own, unless a provider is
    configured to serve it.

    Raises `UsageError` for a provider's model without `OPENAI_API_KEY`.
    """
    keyed = bool(os.environ.get("OPENAI_API_KEY"))
    if options.model != SCRIPTED:
        if not keyed:
            raise UsageError(f"model {options.model!r} needs OPENAI_API_KEY")
        yield Served(OpenAIChat(options.model))
        return
    if keyed and os.environ.get("OPENAI_BASE_URL"):
        yield Served(OpenAIChat(SCRIPTED, price=PRICE))
        return
    from understudy.transports.testing.model_process import ModelServerProcess

    # The working directory must not stand before what is installed: it may hold anything, under any name.
    async with ModelServerProcess(POLICY, env={**os.environ, "PYTHONSAFEPATH": "1"}) as server:
        yield Served(OpenAIChat(SCRIPTED, base_url=server.url, api_key="loopback", price=PRICE), server.url)


def offline(options: Options) -> Model:
    """The description of the model that `options` name, for a replay: it is never opened."""
    return OpenAIChat(options.model, price=PRICE if options.model == SCRIPTED else None)


# Any: passed on to `System`, which names its options and checks them.
@asynccontextmanager
async def open_demo(journal: PathLike[str] | str, options: Options, **system: Any) -> AsyncGenerator[System]:
    """The demo's system over a journal, with its model. `system` are further options of `System`."""
    async with model_for(options) as served:
        root = team(options, model=served.model)
        async with System(root, journal=journal, **{"meta": meta(options), **system}) as running:
            yield running
