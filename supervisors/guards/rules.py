"""The rules that find loops, each with the thresholds that recorded loops and recorded work have taught.

What counts as one occurrence: equal acts in one model step (a batch) are one, for the agent chose them before it
saw an outcome. So a threshold counts model steps, not calls. Looking costs as much as there is evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from understudy.actors.agents.guards import Step
from understudy.actors.errors import SpecError
from understudy.supervisors.checks import check_count, check_number
from understudy.supervisors.guards.combining import Finding, LoopRule, When, found_by, shown
from understudy.supervisors.guards.likeness import alike, comparable
from understudy.supervisors.guards.trail import REACH, Entry, Mark, Trail

POLLS: Final = 3
"""A polling tool may repeat an unchanged outcome this many times as often as another."""


class Same(LoopRule, frozen=True):
    """The same call had the same result `times` times, or as many calls in a row had all been made before with the same
    result, and at least half of their round: so a cycle of any length is found in its second round.

    `times` (default 3) within the last `window` acts (default 40), with at most `stray` (default 1) news between; what
    came between does not matter for a call that fails, for only a world change can cure it. A tool that
    polls counts only past its own limit: three times `times`, with the outcome unchanged. Talk does not count.
    """

    times: int = 3
    window: int = 40
    stray: int = 1

    def __post_init__(self) -> None:
        check_count("Same.times", self.times, least=2)
        _check_window("Same.window", self.window, least=self.times)
        check_count("Same.stray", self.stray)

    def __str__(self) -> str:
        return f"Same({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Calls that brought nothing new."""
        return ("old",)

    def look(self, trail: Trail) -> Finding | None:
        """Count the newest act in the window, then the copies in a row."""
        newest = trail.newest
        if not newest.copy or not newest.step.action:
            return None
        times, polls = self._limit(newest.step), newest.step.polling
        if newest.streak >= self.times and not polls and (cycle := self._cycle(trail, newest)) is not None:
            return cycle
        copies = trail.copies(newest, min(REACH, self.window * POLLS) if polls else self.window, times)
        if len(copies) < times:
            return None
        failing = bool(newest.step.error) and copies[0].at > trail.moved
        if not failing and newest.told - copies[0].told > self.stray:
            return None
        return found_by(self, self._say(copies), copies, {newest.act})

    def mark(self, entry: Entry) -> Mark | None:
        """The same act with the same outcome."""
        return entry.act if entry.step.action else None

    def _limit(self, step: Step) -> int:
        return self.times * POLLS if step.polling else self.times

    def _cycle(self, trail: Trail, newest: Entry) -> Finding | None:
        """The last `times` acts, all copies, each with the copies before it."""
        again: list[Entry] = []
        between = copied = 0
        for entry in islice(reversed(trail.entries), self.window):
            if not entry.step.action or entry.step.polling:
                continue
            if len(again) < self.times:
                again.append(entry)
            if entry is newest.older_act:
                break
            between += 1
            copied += entry.copy
        proof: dict[int, Entry] = {}
        for entry in again:
            copies = trail.copies(entry, self.window)
            if len(copies) < 2:
                return None  # what it repeats has left the window
            proof.update((one.at, one) for one in copies)
        if len({entry.act for entry in again}) == 1 or 2 * copied < between:
            return None
        what = f"the last {self.times} calls had all had the same results before, in a round of {between} calls"
        listed = [proof[at] for at in sorted(proof)]
        return found_by(self, what, listed, {entry.act for entry in again}, between)

    def _say(self, proof: Sequence[Entry]) -> str:
        how = "failed the same way" if proof[-1].step.error else "gave the same result"
        return f"{shown(proof[-1].step)} {how} {len(proof)} times"


class Reworded(LoopRule, frozen=True):
    """Calls of one tool that differ only in wording had the same result `times` times, or calls with whatever arguments
    `any` times.

    `times` (default 3) with arguments alike by `alike` (default 0.8: so many of the words of both are in both; all of
    them, when it came back with nothing), `any` (default 6; 0 for never) unless with nothing or with who knows what
    effect, within the last `window` acts (default 12), with at most `stray` (default 1) other news between. A tool that
    polls does not count.
    """

    times: int = 3
    alike: float = 0.8
    any: int = 6
    window: int = 12
    stray: int = 1

    def __post_init__(self) -> None:
        check_count("Reworded.times", self.times, least=2)
        _check_share("Reworded.alike", self.alike)
        check_count("Reworded.any", self.any)
        _check_window("Reworded.window", self.window, least=max(self.times, self.any))
        check_count("Reworded.stray", self.stray)

    def __str__(self) -> str:
        return f"Reworded({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Calls."""
        return ("news", "old")

    def look(self, trail: Trail) -> Finding | None:
        """Count the newest act's result in the window."""
        newest = trail.newest
        step = newest.step
        if newest.older_result is None or not newest.outcome or step.polling:
            return None
        results = trail.results(newest, self.window)
        if len(results) < self.times:
            return None
        if self.any and len(results) >= self.any and not step.blank and (step.error or not step.unsure):
            proof = results[-self.any :]
            if newest.told - proof[0].told <= self.stray:
                return self._found(f"gave the same result {self.any} times, whatever was asked", proof)
        if _others(newest, results[-self.times :]) > self.stray:
            return None
        share = 1.0 if step.blank else self.alike
        proof = [one for one in results if one.call == newest.call or _rewords(newest, one, share)]
        proof = proof[-self.times :]
        if len(proof) < self.times or _others(newest, proof) > self.stray:
            return None
        return self._found(f"gave the same result {self.times} times, asked in other words", proof)

    def _found(self, what: str, proof: Sequence[Entry]) -> Finding:
        return found_by(self, f"{proof[-1].step.action} {what}", proof, {proof[-1].result})

    def mark(self, entry: Entry) -> Mark | None:
        """The same action with the same outcome."""
        return entry.result if entry.step.action and entry.outcome and not entry.step.blank else None


class Near(LoopRule, frozen=True):
    """The same call had nearly the same long result `times` times, as when a page is described anew.

    `times` (default 4), results of at least `least` words (default 30) alike by `alike` (default 0.9), within the last
    `window` acts (default 40), with at most `stray` (default 1) news of other calls between. A tool that polls does not
    count.
    """

    times: int = 4
    alike: float = 0.9
    least: int = 30
    window: int = 40
    stray: int = 1

    def __post_init__(self) -> None:
        check_count("Near.times", self.times, least=2)
        _check_share("Near.alike", self.alike)
        check_count("Near.least", self.least, least=1)
        _check_window("Near.window", self.window, least=self.times)
        check_count("Near.stray", self.stray)

    def __str__(self) -> str:
        return f"Near({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Calls."""
        return ("news", "old")

    def look(self, trail: Trail) -> Finding | None:
        """Compare the newest result with those of the same call."""
        newest = trail.newest
        if newest.older_call is None or newest.step.polling or not newest.step.action:
            return None
        if len(newest.step.text) < 2 * self.least:  # so many words would be longer
            return None
        calls = trail.calls(newest, self.window)
        if len(calls) < self.times or len(newest.words()) < self.least:
            return None
        proof = [one for one in calls if alike(one.words(), newest.words(), self.alike)][-self.times :]
        if len(proof) < self.times:
            return None
        if _others(newest, [one for one in calls if one.at >= proof[0].at]) > self.stray:
            return None
        what = f"{shown(newest.step)} gave nearly the same result {self.times} times"
        return found_by(self, what, proof, {newest.call})

    def mark(self, entry: Entry) -> Mark | None:
        """None: another result of the call may be news, so the loop continues by being found again."""
        return None


class Errors(LoopRule, frozen=True):
    """The same tool failed with the same error `times` times lately, whatever the arguments; a success between is no
    reset.

    `times` (default 4) within the last `window` acts (default 12).
    Numbers, hexadecimal and white space in the text do not count.
    """

    times: int = 4
    window: int = 12

    def __post_init__(self) -> None:
        check_count("Errors.times", self.times, least=2)
        _check_window("Errors.window", self.window, least=self.times)

    def __str__(self) -> str:
        return f"Errors({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Calls."""
        return ("news", "old")

    def look(self, trail: Trail) -> Finding | None:
        """Count the newest act's error in the window."""
        newest = trail.newest
        if newest.fault is None:
            return None
        proof = trail.faults(newest, self.window)
        if len(proof) < self.times:
            return None
        proof = [one for one in proof if one.at > trail.moved]
        if (times := _turns(proof)) < self.times:
            return None
        return found_by(self, f"{newest.step.action} failed with the same error {times} times", proof, {newest.fault})

    def mark(self, entry: Entry) -> Mark | None:
        """The same action with the same masked error."""
        return entry.fault


class Malformed(LoopRule, frozen=True):
    """`times` (default 4) answers or calls in a row did not fit: no such tool, wrong arguments, another form."""

    times: int = 4

    def __post_init__(self) -> None:
        _check_window("Malformed.times", self.times, least=2)

    def __str__(self) -> str:
        return f"Malformed({self.times})"

    def look(self, trail: Trail) -> Finding | None:
        """Look back while nothing fits."""
        newest = trail.newest
        if not newest.step.malformed:
            return None
        proof: list[Entry] = []
        for entry in reversed(trail.entries):
            if not entry.step.malformed or entry.step.agent != newest.step.agent:
                break
            proof.append(entry)
        proof.reverse()
        if (times := _turns(proof)) < self.times:
            return None
        return found_by(self, f"{times} answers in a row did not fit", proof, {(newest.step.agent,)})

    def mark(self, entry: Entry) -> Mark | None:
        """One more that does not fit, whatever it is."""
        return (entry.step.agent,) if entry.step.malformed else None


class Idle(LoopRule, frozen=True):
    """Nothing new for `times` (default 8) model steps in a row: no world change, and every outcome was one that its
    action had had before. Other arguments with an old outcome are not new; where that is normal ("ok"), use `&`.
    """

    times: int = 8

    def __post_init__(self) -> None:
        _check_window("Idle.times", self.times, least=2)

    def __str__(self) -> str:
        return f"Idle({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Whatever is not news."""
        return ("old", "talk")

    def look(self, trail: Trail) -> Finding | None:
        """Measure the streak that the newest step ends."""
        newest = trail.newest
        if newest.quiet < self.times:
            return None
        proof = [entry for entry in trail.entries if entry.turn > newest.turn - newest.quiet]
        return found_by(self, f"nothing new in {newest.quiet} steps", proof, {(newest.step.agent,)})

    def mark(self, entry: Entry) -> Mark | None:
        """The same act with the same outcome; an unbroken streak continues by being found again."""
        return entry.act


class Talk(LoopRule, frozen=True):
    """An agent said much the same `times` times in a row while nobody did anything, also in a dialogue with others.

    `times` (default 3), alike by `alike` (default 0.5: so many of the words of both are in both).
    """

    times: int = 3
    alike: float = 0.5

    def __post_init__(self) -> None:
        _check_window("Talk.times", self.times, least=2)
        _check_share("Talk.alike", self.alike)

    def __str__(self) -> str:
        return f"Talk({self.times})"

    @property
    def when(self) -> tuple[When, ...]:
        """Talk."""
        return ("talk",)

    def look(self, trail: Trail) -> Finding | None:
        """Compare what the newest speaker said since the last action."""
        newest = trail.newest
        if newest.step.action:
            return None
        proof: list[Entry] = []
        for entry in reversed(trail.entries):
            if entry.step.action:
                break
            if entry.step.agent == newest.step.agent:
                if entry is not newest and not _says(newest, entry, self.alike):
                    break
                proof.append(entry)
                if len(proof) == self.times:
                    proof.reverse()
                    what = f"said much the same {self.times} times without acting"
                    return found_by(self, what, proof, {(newest.step.agent,)})
        return None

    def mark(self, entry: Entry) -> Mark | None:
        """None: talk in other words is no loop, so the loop continues by being found again, or by the same words."""
        return None if entry.step.action else entry.act


class Resent(LoopRule, frozen=True):
    """The same instruction was sent to a worker `times` times, and nothing new came of it.

    `times` (default 3) among the last `window` acts (default 24), alike by `alike` (default 0.7: so many of the words
    of both are in both), with at most `stray` (default 1) news between.
    """

    times: int = 3
    alike: float = 0.7
    window: int = 24
    stray: int = 1

    def __post_init__(self) -> None:
        check_count("Resent.times", self.times, least=2)
        _check_share("Resent.alike", self.alike)
        _check_window("Resent.window", self.window, least=self.times)
        check_count("Resent.stray", self.stray)

    def __str__(self) -> str:
        return f"Resent({self.times})"

    def look(self, trail: Trail) -> Finding | None:
        """Compare the newest instruction with those that the same agent sent before."""
        newest = trail.newest
        if not newest.step.to:
            return None
        proof: list[Entry] = []
        own = 0  # answers that are new by the letter only
        for entry in islice(reversed(trail.entries), self.window):
            if newest.told - entry.told - own > self.stray:
                return None
            if entry.step.agent == newest.step.agent and self._repeats(newest, entry):
                proof.append(entry)
                own += entry.news
                if len(proof) == self.times:
                    proof.reverse()
                    what = f"sent the same instruction {self.times} times, and nothing new came of it"
                    return found_by(self, what, proof, {(newest.step.agent,)})
        return None

    def _repeats(self, newest: Entry, entry: Entry) -> bool:
        """Whether an older instruction is the newest one, and got much the same answer, if answers are known."""
        if not entry.step.to or not _sends(newest, entry, self.alike):
            return False
        if not newest.step.action or newest.outcome == entry.outcome:
            return True
        failed = bool(newest.step.error), bool(entry.step.error)
        return failed[0] == failed[1] and alike(newest.words(), entry.words(), self.alike)

    def mark(self, entry: Entry) -> Mark | None:
        """The very same instruction with the same answer; in other words it continues by being found again."""
        return entry.act if entry.step.to else None


def _check_window(option: str, value: object, *, least: int) -> None:
    check_count(option, value, least=least)
    if isinstance(value, int) and value > REACH:
        raise SpecError(f"{option} must be at most {REACH}, the acts that are remembered, got {value!r}")


def _check_share(option: str, value: object) -> None:
    check_number(option, value)
    if isinstance(value, int | float) and value > 1:
        raise SpecError(f"{option} must be a share from 0 to 1, got {value!r}")


def _says(one: Entry, other: Entry, share: float) -> bool:
    """Whether two acts of talk say much the same; equal ones also when nothing is known of their words."""
    if one.act == other.act:
        return True
    text, before = one.step.text, other.step.text
    return bool(text and before) and comparable(text, before, share) and alike(one.words(), other.words(), share)


def _sends(one: Entry, other: Entry, share: float) -> bool:
    """Whether two acts send much the same instruction: what a call asks, or what is said."""
    if not one.step.action or not other.step.action:
        return not one.step.action and not other.step.action and _says(one, other, share)
    if one.call == other.call:
        return True
    same_size = comparable(one.step.arguments, other.step.arguments, share)
    return same_size and alike(one.asks(), other.asks(), share)


def _rewords(one: Entry, other: Entry, share: float) -> bool:
    """Whether two calls ask for the same in other words. When only numbers differ, they ask for another page."""
    if not comparable(one.step.arguments, other.step.arguments, share) or not alike(one.asks(), other.asks(), share):
        return False
    differ = one.asks() ^ other.asks()
    return not differ or not all(word.isdecimal() for word in differ)


def _others(newest: Entry, proof: Sequence[Entry]) -> int:
    """How many news of other acts there are since the first of `proof`, which ends with `newest`."""
    own = sum(one.news for one in proof) - proof[0].news
    return newest.told - proof[0].told - own


def _turns(entries: Sequence[Entry]) -> int:
    """In how many model steps these were made."""
    return len({entry.turn for entry in entries})
