"""Every error understudy raises, in one tree.

    UnderstudyError
    ├── UsageError            you used it wrongly; the text names the value and the place
    │   ├── ProtocolError     a message class or an actor's handlers are declared wrongly
    │   ├── SpecError         a supervisor, agent, tool, route or guard is declared wrongly
    │   │   └── NameTaken     another actor has the name
    │   └── WrongLoop         a ref was used outside the event loop it belongs to
    ├── AskError              a request got no reply
    │   ├── AskTimeout        the deadline passed
    │   ├── ActorStopped      the target is gone, or ended while it served the request
    │   ├── MailboxFull       no room before the deadline
    │   ├── NotHandled        the target does not take messages of this type
    │   └── CallCycle         the target waits, through others, for the asker
    ├── StashFull             an actor put more messages aside than its `stash_limit`
    ├── WatchTimeout          nothing that is watched ended in time
    ├── ModelError            the model provider misbehaved or refused
    │   ├── RateLimited       429
    │   ├── Overloaded        5xx
    │   ├── ModelTimeout      no answer in time
    │   ├── ModelUnreachable  no connection
    │   ├── BadReply          not JSON, a cut stream, or not the agreed shape
    │   └── ModelRefused      any other 4xx: key, quota, context too long, bad request
    ├── JournalError          the journal cannot be used as asked
    │   ├── JournalForeign    the file is not an understudy journal
    │   ├── JournalNewer      written by a newer version
    │   ├── JournalDamaged    an event does not match its checksum
    │   ├── JournalOwned      another live process owns it
    │   ├── JournalClosed     used after it was closed
    │   ├── JournalFailed     the disk refused; nothing after it was written
    │   └── StaleWriter       an append by an incarnation that is no longer current
    ├── UnknownRun            no such run, approval or doubt
    ├── SessionBusy           the last run of a session has not ended
    └── Incomplete            `unwrap()` of a result that has no output
    Fenced (BaseException)    a call from an incarnation that was killed; never catch it

Foreign errors (httpx, sqlite3) are translated once, where they enter, with the cause kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.actors.lifecycle import Exit


class UnderstudyError(Exception):
    """Base of everything below but `Fenced`."""


class UsageError(UnderstudyError, ValueError):
    """A mistake in the calling program. Raised where the mistake is made; fix the program."""


class ProtocolError(UsageError, TypeError):
    """A message class or the handlers of an actor are declared wrongly. Raised when the class is made."""


class SpecError(UsageError):
    """A supervisor, agent, tool, route or guard is declared wrongly. Raised when declared or at start."""


class NameTaken(SpecError):
    """Another actor has the name: incarnation `incarnation` of the address `path`, now in state `state`.

    A name is free again before anybody is told that its actor ended: `watch` the holder, or stop it and wait.
    """

    def __init__(self, path: str, incarnation: int, state: str) -> None:
        super().__init__(f"the name {path!r} is taken by its incarnation {incarnation}, which is {state}")
        self.path = path
        self.incarnation = incarnation
        self.state = state


class WrongLoop(UsageError, RuntimeError):
    """A ref was used from another thread or event loop. Use `ref.tell_threadsafe` there."""


class AskError(UnderstudyError):
    """A request got no reply. `target` is the path of the actor that was asked."""

    def __init__(self, target: str, text: str) -> None:
        super().__init__(f"{target}: {text}")
        self.target = target


class AskTimeout(AskError, TimeoutError):
    """The deadline passed. The target may still do the work; its late reply becomes a dead letter."""

    def __init__(self, target: str, seconds: float) -> None:
        super().__init__(target, f"no reply within {seconds:g} s")
        self.seconds = seconds


class ActorStopped(AskError):
    """The target is gone, or its incarnation ended while it served the request. `exit` says why."""

    def __init__(self, target: str, exit: Exit) -> None:
        super().__init__(target, f"stopped: {exit}")
        self.exit = exit


class AgentQuarantined(ActorStopped):
    """A guard has taken the agent out of service; it takes nothing until a person releases it. `exit` says why."""


class MailboxFull(AskError):
    """The target's mailbox had no room before the deadline. `limit` is its size in messages."""

    def __init__(self, target: str, limit: int) -> None:
        super().__init__(target, f"mailbox full ({limit} messages)")
        self.limit = limit


class NotHandled(AskError):
    """The target has no handler for this message type; `accepts` lists those it has."""

    def __init__(self, target: str, message: type, accepts: tuple[str, ...]) -> None:
        names = ", ".join(accepts) or "nothing"
        super().__init__(target, f"does not handle {message.__name__}; it takes {names}")
        self.message = message
        self.accepts = accepts


class CallCycle(AskError):
    """The target is busy with a request of the same chain of asks; `cycle` names the actors in order."""

    def __init__(self, target: str, cycle: tuple[str, ...]) -> None:
        super().__init__(target, "call cycle " + " -> ".join(cycle))
        self.cycle = cycle


class ReplyLost(AskError):
    """The target did its work, but the reply could not be sent or read between the nodes, or the request was refused.

    The text says which, and why.
    """


class StashFull(UnderstudyError):
    """`stash()` with `limit` messages of actor `path` put aside already. The stash is as it was."""

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(f"{path}: {limit} messages are put aside already; unstash some, or set stash_limit")
        self.path = path
        self.limit = limit


class WatchTimeout(UnderstudyError, TimeoutError):
    """None of the actors `paths` (the first few of them) ended within `seconds`. They are still watched."""

    def __init__(self, paths: tuple[str, ...], seconds: float) -> None:
        super().__init__(f"{', '.join(paths)}: still there after {seconds:g} s")
        self.paths = paths
        self.seconds = seconds


class ModelError(UnderstudyError):
    """The model provider misbehaved or refused.

    `sent` is False only when no byte of the request left this process: then nothing was spent.
    `retryable` says whether the same request may succeed later, `retry_after` (seconds) when the
    provider asked for a pause.
    """

    kind = "model"
    retryable = False
    refused = False
    """The provider answered that it did nothing: then only the call itself was spent."""

    def __init__(self, text: str, *, sent: bool = True, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.sent = sent
        self.retry_after = retry_after


class RateLimited(ModelError):
    """HTTP 429. Retried after `retry_after`, else after the agent's back-off."""

    kind = "rate_limited"
    retryable = True
    refused = True


class Overloaded(ModelError):
    """HTTP 5xx."""

    kind = "overloaded"
    retryable = True


class ModelTimeout(ModelError):
    """No answer in time; what the provider did and billed is unknown."""

    kind = "timeout"
    retryable = True


class ModelUnreachable(ModelError):
    """No connection could be made."""

    kind = "unreachable"
    retryable = True


class BadReply(ModelError):
    """The answer is not JSON, was cut, or has not the agreed shape. What was billed is unknown."""

    kind = "bad_reply"
    retryable = True


class ModelRefused(ModelError):
    """Any other refusal (4xx): key, quota, context too long, bad request. Not retried."""

    kind = "refused"
    refused = True


class JournalError(UnderstudyError):
    """The journal cannot be used as asked. `path` is its file, or ':memory:'."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


class JournalForeign(JournalError):
    """The file is no understudy journal (not SQLite, or SQLite of something else). It is left alone."""


class JournalNewer(JournalError):
    """The file was written by a newer version of understudy. It is left alone."""


class JournalDamaged(JournalError):
    """An event does not match its checksum. `run` and `seq` name the first bad event."""

    def __init__(self, path: str, run: str, seq: int, text: str) -> None:
        super().__init__(path, f"damaged at {run}:{seq}: {text}")
        self.run = run
        self.seq = seq


class JournalOwned(JournalError):
    """Another live process owns the journal."""


class JournalClosed(JournalError):
    """The journal was used after it was closed."""


class JournalFailed(JournalError):
    """The disk refused a write. Nothing after it was written; the run stops at its last commit."""


class StaleWriter(JournalError):
    """An append by an (actor path, incarnation) that is no longer current was refused."""


class UnknownRun(UnderstudyError, LookupError):
    """No run, approval or doubt has this id in the journal."""


class SessionBusy(UnderstudyError):
    """A session's last run, `run`, has not ended: `state` says how far it is. Wait for its result, or end it, first."""

    def __init__(self, session: str, run: str, state: str) -> None:
        super().__init__(f"session {session!r} is busy: its run {run} {state}; one run at a time")
        self.session = session
        self.run = run
        self.state = state


class Incomplete(UnderstudyError):
    """`unwrap()` of a result without an output. `result` is that result."""

    def __init__(self, result: object, text: str) -> None:
        super().__init__(text)
        self.result = result


class Fenced(BaseException):
    """A framework call from an incarnation that was killed and cut off. Never catch it."""
