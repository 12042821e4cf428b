"""How workers share the rate of a limit, by what each writes to one partition that all of them read.

    claim    requests a second that a worker may send at most, from this record of its own on
    want     requests a second that it could use now
    held     what it really sends at most: never more than its claim

A worker that lowers its claim sends less first and writes then. One that raises it writes first, reads its own record
back, and sends more only if all claims before that record leave room for it. All workers read the same order, so the
rates held never add up to more than the limit, however late anyone reads or writes. What is free, and who has to give,
follows from the wants: equal shares, but for what a worker does not need. While a new rate is rolled out, what others
write counts in proportion: one that claims half of its rate leaves half of ours.

A worker is gone if this one has read records of its own over GONE_AFTER seconds (of its own clock) and none of the
other between them: while the topic stands still, nobody is gone. A worker that was silent so long takes back no more
than is free. One that has just begun claims nothing until each of the others must have written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

WRITE_EVERY = 0.5
"""Seconds between two records at most."""
GONE_AFTER = 1.0
"""Seconds between records of one's own, with none of another worker between them, after which that one is gone."""
FLOOR = 0.05
"""Share of an equal part that an idle worker keeps, for its first requests."""
SPARE = 1.2
"""How many times what it has used lately a worker wants."""
DRAIN = 0.5
"""Seconds in which it wants to have sent what waits."""
NOTABLE = 0.02
"""Share of the limit by which a claim has to change to be written at once."""
MAX_PEERS = 1_000
"""Workers that are known at most."""

PREFIX = b'{"limits":'
"""How a record of shares begins; other records of the topic are heartbeats."""

Record: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[float, float]


@dataclass(slots=True)
class Peer:
    """Another worker by its latest record: (claim, want) by limit. `missed_since`: when this worker wrote the first
    record of its own since then.
    """

    pairs: dict[str, Pair]
    missed_since: float | None = None
    since_mine: float | None = None
    """When it wrote its first record since the latest of this worker, by its own clock."""


@dataclass(slots=True)
class Limit:
    """One limit: `rate` for all, `held` by this worker, which wants `want`; `written` are the latest claim and want."""

    rate: float
    held: float = 0.0
    want: float = 0.0
    written: Pair = (0.0, 0.0)


@dataclass(slots=True)
class RateShares:
    """The shares of the worker `me` (a name of this process alone); `changed` is called with a limit's name."""

    me: str
    limits: dict[str, Limit]
    changed: Callable[[str], None]
    peers: dict[str, Peer] = field(default_factory=dict)
    joined: bool = False
    _first_at: float | None = None
    _doubted: bool = False
    _number: int = 0

    def restart(self) -> None:
        """Forget the others: records were missed. What is held stays, and is taken back if it does not fit."""
        self.peers.clear()
        self.joined, self._first_at, self._doubted = False, None, True

    def target(self, name: str) -> float:
        """Return the rate that is this worker's by the wants of all."""
        limit = self.limits[name]
        wants = {run: peer.pairs[name][1] for run, peer in self.peers.items() if name in peer.pairs}
        return split(limit.rate, wants | {self.me: limit.want})[self.me]

    def expected(self, name: str) -> float:
        """Return the rate that a request may count on: an equal part, which is what a worker gets that wants it."""
        limit = self.limits[name]
        return max(limit.held, limit.rate / (1 + sum(name in peer.pairs for peer in self.peers.values())))

    @property
    def is_settled(self) -> bool:
        """Whether this worker holds what it has claimed last."""
        return self.joined and all(
            abs(limit.held - limit.written[0]) < NOTABLE * limit.rate for limit in self.limits.values()
        )

    def is_due(self) -> bool:
        """Whether there is something that others should know at once."""
        for name, limit in self.limits.items():
            claim, want = limit.written
            notable = NOTABLE * limit.rate
            if abs(self._claim(name) - claim) >= notable or (limit.want > max(claim, want) + notable):
                return True
        return False

    def write(self, now: float) -> Record:
        """Return the next record, at `now` (monotonic seconds). What it gives up is given up from here on."""
        for name, limit in self.limits.items():
            claim = self._claim(name)
            if claim < limit.held:
                self._hold(name, claim)
            limit.written = claim, limit.want
        self._number += 1
        # Rounded up: what others read is never less than what is held here.
        pairs = {name: [math.ceil(each * 1e6) / 1e6 for each in limit.written] for name, limit in self.limits.items()}
        rates = {name: limit.rate for name, limit in self.limits.items()}
        return {"limits": pairs, "rates": rates, "run": self.me, "number": self._number, "at": now}

    def read(self, record: Record) -> None:
        """Take the next record of the partition, whoever wrote it. Raises ValueError for one that is not valid."""
        run, at = record.get("run"), record.get("at")
        if not isinstance(run, str) or not isinstance(at, int | float):
            msg = "no record of a worker's limits"
            raise ValueError(msg)  # noqa: TRY004  like other records that are not valid
        if run == self.me:
            self._read_own(float(at), record)
        elif record.get("left"):
            self.peers.pop(run, None)
        else:
            self._read_other(run, float(at), self._in_proportion(_pairs(record.get("limits")), record.get("rates")))

    def _claim(self, name: str) -> float:
        """Return the rate to claim: less if others want it, more if it is free."""
        limit = self.limits[name]
        if not self.joined:
            return limit.held
        target = self.target(name)
        return target if target <= limit.held else max(limit.held, min(target, self._free(name)))

    def _free(self, name: str) -> float:
        claims = sum(peer.pairs[name][0] for peer in self.peers.values() if name in peer.pairs)
        return max(0.0, self.limits[name].rate - claims)

    def _read_own(self, at: float, record: Record) -> None:
        for run, peer in list(self.peers.items()):
            peer.since_mine = None
            if peer.missed_since is None:
                peer.missed_since = at
            elif at - peer.missed_since >= GONE_AFTER:
                del self.peers[run]
        if self._first_at is None:
            self._first_at = at
        self.joined = self.joined or at - self._first_at >= GONE_AFTER
        self._take_back()
        self._doubted = self._doubted and not self.joined
        latest = record.get("number") == self._number  # else what was written since may be less
        for name, (claim, _) in _pairs(record.get("limits")).items():
            limit = self.limits.get(name)
            if limit is not None and latest and claim > limit.held:
                self._hold(name, max(limit.held, min(claim, self._free(name))))

    def _read_other(self, run: str, at: float, pairs: dict[str, Pair]) -> None:
        peer = self.peers.get(run)
        if peer is None:
            if len(self.peers) >= MAX_PEERS:
                return
            peer = self.peers[run] = Peer(pairs)
        peer.pairs, peer.missed_since = pairs, None
        if peer.since_mine is None:
            peer.since_mine = at
        elif at - peer.since_mine >= GONE_AFTER:  # for that one this worker is gone
            self._doubted = True
        self._take_back()

    def _in_proportion(self, pairs: dict[str, Pair], rates: Any) -> dict[str, Pair]:
        """Return another worker's pairs as the same parts of the rates of this one."""
        for name, rate in rates.items() if isinstance(rates, dict) else ():
            limit = self.limits.get(name)
            if limit is None or name not in pairs or not isinstance(rate, int | float) or rate <= 0:
                continue
            claim, wanted = pairs[name]
            pairs[name] = claim / rate * limit.rate, wanted / rate * limit.rate
        return pairs

    def _take_back(self) -> None:
        """Hold no more than fits while others may not count on this worker."""
        if self._doubted:
            for name, limit in self.limits.items():
                if limit.held > (free := self._free(name)):
                    self._hold(name, free)

    def _hold(self, name: str, rate: float) -> None:
        self.limits[name].held = rate
        self.changed(name)


def split(rate: float, wants: Mapping[str, float]) -> dict[str, float]:
    """Divide a rate: nobody gets more than it wants while another wants more than it gets; what nobody wants is divided
    equally.
    """
    floor = FLOOR * rate / len(wants)
    shares: dict[str, float] = {}
    left = rate
    ordered: Iterable[tuple[float, str]] = sorted((max(floor, min(want, rate)), run) for run, want in wants.items())
    for number, (want, run) in enumerate(ordered):
        shares[run] = min(want, left / (len(wants) - number))
        left -= shares[run]
    return {run: share + left / len(wants) for run, share in shares.items()}


def want(used: float, waiting: int) -> float:
    """Return the requests a second that a worker could use, by what it used lately and how many requests wait."""
    return SPARE * used + waiting / DRAIN


def _pairs(value: Any) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for name, pair in value.items() if isinstance(value, dict) else ():
        match pair:
            case [int() | float() as claim, int() | float() as wanted] if claim >= 0 and wanted >= 0:
                pairs[name] = float(claim), float(wanted)
            case _:
                msg = "a claim and a want are numbers"
                raise ValueError(msg)
    return pairs
