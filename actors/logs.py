"""Structured logs: a formatter that writes one JSON object a line, and a handler that never makes anybody wait.

    handler = BufferedHandler(logging.StreamHandler())
    handler.setFormatter(JSONFormatter())
    logging.getLogger("understudy").addHandler(handler)
    logging.getLogger("understudy").setLevel(logging.INFO)

What is logged, and at which level, is in `agents.notices` (events) and `telemetry` (crashes, blockages).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from understudy.actors.outlet import BUFFER, FLUSH_SECONDS, Outlet

TEXT_LIMIT: Final = 16_000
"""Characters of a message, a value or a traceback that one line carries at most."""
FIELDS: Final = (
    *("run", "seq", "sub", "path", "incarnation", "cause", "event", "trace_id", "span_id", "parent_id"),
    *("code", "place", "left_out"),
)
"""What our records carry beside the message; further ones are named with `JSONFormatter(fields=)`."""

_encoder: Final = msgspec.json.Encoder()


class JSONFormatter(logging.Formatter):
    """One line of JSON for each record: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `FIELDS` it has.

    `fields`: names of further attributes to take over. `redact`: a function of a text that is called with the message
    and the traceback; the texts of events are redacted before. Never raises: what cannot be said in JSON is
    shown by its `repr`, a lone surrogate as `?`.
    """

    def __init__(self, *, fields: tuple[str, ...] = (), redact: Callable[[str], str] | None = None) -> None:
        super().__init__()
        self._fields = (*FIELDS, *fields)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._text(_message(record)),
        }
        for name in self._fields:
            value = record.__dict__.get(name)
            if value is not None:
                line[name] = value if isinstance(value, int | float) else self._text(_shown(value))
        if record.exc_info or record.exc_text:
            error = self.formatException(record.exc_info) if record.exc_info else record.exc_text
            line["error"] = self._text(error or "")
        try:
            return _encoder.encode(line).decode()
        except (TypeError, ValueError, OverflowError):
            safe = {name: _shown(value).encode("utf-8", "replace").decode() for name, value in line.items()}
            return _encoder.encode(safe).decode()

    def _text(self, text: str) -> str:
        if self._redact is not None:
            text = self._redact(text)
        return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.msg!r} cannot be shown: {type(error).__name__}"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


class BufferedHandler(logging.Handler):
    """Hands records to another handler in a thread of its own, so that a slow disk or network makes nobody wait.

    At most `size` records wait (default 10,000); more are dropped and counted in `dropped`. `close`, which `logging`
    calls at the end of the process, waits 5 s at most.
    """

    def __init__(self, handler: logging.Handler, *, size: int = BUFFER) -> None:
        super().__init__(handler.level)
        self._handler = handler
        self._outlet: Outlet[logging.LogRecord] = Outlet("log", self._deliver, size=size)

    @property
    def dropped(self) -> int:
        """Records that found no room."""
        return self._outlet.dropped

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """The formatter of the other handler."""
        self._handler.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        """Put it into the buffer. What is not text becomes text here: it may change until the thread comes to it."""
        record.msg, record.args = _message(record), None
        self._outlet.put(record)

    def _deliver(self, records: list[logging.LogRecord]) -> None:
        for record in records:
            self._handler.handle(record)

    def flush(self) -> None:
        """Wait until everything so far was handed on, 5 s at most."""
        self._outlet.flush(FLUSH_SECONDS)
        self._handler.flush()

    def close(self) -> None:
        """See the class."""
        self._outlet.close(FLUSH_SECONDS)
        self._handler.close()
        super().close()
