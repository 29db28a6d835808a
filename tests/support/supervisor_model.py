"""A plain re-statement of OTP's rules for a supervisor of a fixed list of children."""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.actors.lifecycle import ExitKind
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import AutoShutdown, RestartType, Strategy

NAMES = ("a", "b", "c", "d")
KINDS: tuple[ExitKind, ...] = ("normal", "shutdown", "error", "loop")


@dataclass
class Kid:
    name: str
    restart: RestartType
    state: str = "running"
    number: int = 1
    failures: int = 0
    began: float = 0.0
    fails: int = 0
    due: tuple[float, int] | None = None
    window: Intensity | None = None
    significant: bool = False
    stamps: list[float] = field(default_factory=list[float])


@dataclass
class Model:
    """Starts and stops take no time here, so a group is only ever seen waiting."""

    strategy: Strategy
    intensity: Intensity
    backoff: Backoff
    kids: dict[str, Kid]
    now: float = 0.0
    alive: bool = True
    log: list[str] = field(default_factory=list[str])
    stamps: list[float] = field(default_factory=list[float])
    group: list[str] | None = None
    group_due: tuple[float, int] = (0.0, 0)
    held: set[str] = field(default_factory=set[str])
    seq: int = 0
    auto: AutoShutdown = "never"
    jitter: float = 1.0
    delays: list[float] = field(default_factory=list[float])

    def up(self, kid: Kid) -> bool:
        kid.number += 1
        kid.began, kid.due = self.now, None
        if kid.fails:
            kid.fails -= 1
            return False
        kid.state = "running"
        self.log.append(f"desk/{kid.name} up #{kid.number}")
        return True

    def down(self, kid: Kid, why: str, state: str) -> None:
        self.log.append(f"desk/{kid.name} {why}")
        kid.state = state
        if kid.restart == "temporary":
            del self.kids[kid.name]

    def end(self) -> None:
        self.alive = False
        for kid in reversed(list(self.kids.values())):
            if kid.state == "running":
                self.log.append(f"desk/{kid.name} shutdown")

    def exits(self, name: str, kind: str) -> None:
        kid = self.kids[name]
        if kid.state != "running":
            return
        expected = kind in ("normal", "shutdown")
        if kid.restart == "temporary" or (kid.restart == "transient" and expected):
            self.down(kid, kind, "stopped")
            if self.group is not None:
                self.held.add(name)
            self.ended_for_good(kid)
            return
        self.down(kid, kind, "restarting")
        self.failed(kid, kind)

    def ended_for_good(self, kid: Kid) -> None:
        others = [each for each in self.kids.values() if each.significant and each is not kid]
        living = [each for each in others if each.state != "stopped"]
        if kid.significant and (self.auto == "any_significant" or (self.auto == "all_significant" and not living)):
            self.end()

    def failed(self, kid: Kid, kind: str, retry: bool = False) -> None:
        kid.state = "restarting"
        if kid.window is not None:
            kid.stamps = [stamp for stamp in kid.stamps if self.now - stamp <= kid.window.within] + [self.now]
            if len(kid.stamps) > kid.window.restarts:
                kid.state = "stopped"
                if self.group is not None:
                    self.held.add(kid.name)
                self.ended_for_good(kid)
                return
        self.stamps = [stamp for stamp in self.stamps if self.now - stamp <= self.intensity.within] + [self.now]
        if len(self.stamps) > self.intensity.restarts:
            self.end()
            return
        healthy = self.backoff.healthy or (self.backoff.first + self.backoff.cap) / 2
        if kind != "start" and self.now - kid.began >= healthy:
            kid.failures = 0
        delay = min(self.backoff.cap, self.backoff.first * 2**kid.failures)
        delay *= self.jitter
        self.delays.append(round(delay, 6))
        kid.failures += 1
        self.seq += 1
        due = (self.now + delay, self.seq)
        if self.strategy == "one_for_one":
            kid.due = due
            return
        order = list(self.kids)
        members = order if self.strategy == "one_for_all" else order[order.index(kid.name) :]
        if self.group is not None:  # the larger range and the longer delay win
            old = [name for name in self.group if name in self.kids]
            members = max(members, old, key=len)
            due = (max(due[0], self.group_due[0]), self.seq)
        self.group, self.group_due = members, due
        if not retry:
            self.stop_members()

    def stop_members(self) -> None:
        for name in reversed(self.group or []):
            if name in self.kids and self.kids[name].state == "running":
                self.down(self.kids[name], "shutdown", "restarting")

    def go(self) -> bool:
        """The next thing that is due; False when there is none now."""
        due = [(kid.due, kid) for kid in self.kids.values() if kid.due is not None]
        if self.group is not None and self.group_due[0] <= self.now:
            self.start_group()
            return True
        due = [pair for pair in due if pair[0][0] <= self.now]
        if not due:
            return False
        kid = min(due, key=lambda pair: pair[0])[1]
        if not self.up(kid):
            self.failed(kid, "start")
        return True

    def start_group(self) -> None:
        members, held = self.group or [], self.held
        self.stop_members()  # a retry's
        self.group = None
        for name in members:
            kid = self.kids.get(name)
            if kid is None or name in held or kid.state == "running":
                continue
            if not self.up(kid):
                self.failed(kid, "start", retry=True)
                if kid.state == "stopped" and self.alive:
                    continue  # it alone failed too often
                return
        self.held = set()

    def settle(self) -> None:
        while self.alive and self.go():
            pass

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.alive:
            self.settle()
            times = [kid.due[0] for kid in self.kids.values() if kid.due is not None]
            times += [self.group_due[0]] if self.group is not None else []
            times = [time for time in times if time <= until]
            if not times:
                break
            self.now = min(times)
        self.now = until

    def terminate(self, name: str) -> None:
        kid = self.kids[name]
        if kid.state == "running":
            self.log.append(f"desk/{name} shutdown")
        kid.state, kid.due = "stopped", None
        if kid.restart == "temporary":
            del self.kids[name]
        if self.group is not None:
            self.held.add(name)

    def start(self, name: str) -> None:
        kid = self.kids[name]
        if kid.state == "stopped" and self.group is None and not self.up(kid):
            kid.state = "stopped"
