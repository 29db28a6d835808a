"""What is replaced in anyio while a simulated loop runs: its cancel scopes get a stable hash, its threads run inline.

Private names of anyio, tried in tests with the oldest and the newest version that is supported.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any, NoReturn

from understudy.actors.testing.identity import scope_class


def anyio_swaps(refuse: Callable[[str], NoReturn], in_thread: Callable[[], bool]) -> list[tuple[Any, str, Any]]:
    """Whose attribute is replaced by what. `in_thread`: whether a function for a thread is running, inline."""
    from anyio._backends import _asyncio as backend

    kind = backend.AsyncIOBackend
    swaps: list[tuple[Any, str, Any]] = [
        (backend, "CancelScope", scope_class(backend.CancelScope)),
        (kind, "run_sync_in_worker_thread", classmethod(_inline(backend))),
    ]
    for name in ("run_async_from_thread", "run_sync_from_thread"):
        swaps.append((kind, name, classmethod(_not_from_thread(vars(kind)[name].__func__, refuse, in_thread))))
    return swaps


# `Any`: modules, classes and functions of anyio without a promise.
def _inline(module: Any) -> Any:
    """`run_sync_in_worker_thread`, with the executor of the loop in place of anyio's threads."""
    real: Any = vars(module.AsyncIOBackend)["run_sync_in_worker_thread"].__func__

    async def inline(
        cls: Any, func: Callable[..., Any], args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not getattr(loop, "virtual", False):
            return await real(cls, func, args, abandon_on_cancel, limiter)
        await cls.checkpoint()
        async with limiter or cls.current_default_thread_limiter():
            with module.CancelScope(shield=not abandon_on_cancel) as scope:
                seen = scope if abandon_on_cancel or scope._parent_scope is None else scope._parent_scope
                context = contextvars.copy_context()
                context.run(_no_library)
                call = functools.partial(_in_worker, module, loop, seen, functools.partial(context.run, func, *args))
                return await loop.run_in_executor(None, call)

    return inline


def _no_library() -> None:
    """A thread is in no async library; see sniffio, which anyio may have."""
    try:
        from sniffio import current_async_library_cvar  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return
    current_async_library_cvar.set(None)


def _in_worker(module: Any, loop: Any, scope: Any, call: Callable[[], Any]) -> Any:
    """`call`, with what anyio's worker threads know: their loop, and the scope that `check_cancelled` asks."""
    names = module.threadlocals
    with module.claim_worker_thread(module.AsyncIOBackend, loop):
        names.current_cancel_scope = scope
        try:
            return call()
        finally:
            del names.current_cancel_scope


def _not_from_thread(real: Any, refuse: Callable[[str], NoReturn], in_thread: Callable[[], bool]) -> Any:
    def called(cls: Any, *args: Any, **more: Any) -> Any:
        if in_thread():
            refuse("anyio.from_thread was called in a function for a thread, which runs inline: the loop waits for it")
        return real(cls, *args, **more)

    return called
