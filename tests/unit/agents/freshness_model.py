"""A model of the cache for one key: slow, written from RFC 9111, RFC 5861 and our contract, not from the code.

It says of each request what it gets (state, document, age) and what the upstream is asked for it, then and there or
behind the answer's back.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from math import floor
from types import MappingProxyType
from typing import Any, NamedTuple

from models.errors import AnswerError, TimedOut, TooLarge, Unreachable, UpstreamError
from models.source import CachePolicy

START = 1_800_000_000.0
MOST_STALE, REMEMBERED, REST, HOT, LATE, RETAINED = 300.0, 5.0, 5.0, 3, 0.2, 3600.0
FAILURES: dict[str, tuple[type[AnswerError], tuple[Any, ...], bool, bool]] = {
    # what it is called: how it is made, whether it may pass, whether it is remembered
    "not_found": (UpstreamError, ("gone", 404), False, True),
    "upstream_error": (UpstreamError, ("busy", 503), True, True),
    "too_large": (TooLarge, ("big",), False, True),
    "unreachable": (Unreachable, ("gone",), True, True),
    "timeout": (TimedOut, ("late",), True, False),
}


class Says(NamedTuple):
    """What an upstream says of an answer, before it is written as headers."""

    directives: Mapping[str, int | None] = MappingProxyType({})
    expires_in: int | None = None
    age: int | None = None
    any_vary: bool = False
    etag: bool = False
    modified: bool = False
    silent_304: bool = False
    expires_at: float | None = None

    def headers(self, version: int, now: float) -> dict[str, str]:
        """Write them as an upstream would."""
        words = [name if value is None else f"{name}={value}" for name, value in self.directives.items()]
        written = {
            "Cache-Control": ", ".join(words) or None,
            "Date": formatdate(now, usegmt=True),
            "Expires": None if self.expires_in is None else formatdate(now + self.expires_in, usegmt=True),
            "Age": None if self.age is None else str(self.age),
            "Vary": "*" if self.any_vary else None,
            "ETag": f'"{version}"' if self.etag else None,
            "Last-Modified": modified_at(version) if self.modified else None,
        }
        return {name: value for name, value in written.items() if value is not None}

    def at(self, now: float) -> Says:
        """Return it as said at a time: whole seconds, as HTTP's dates have them."""
        return self if self.expires_in is None else self._replace(expires_at=floor(now + self.expires_in))

    def updated(self, other: Says) -> Says:
        """Return it as a 304 that says the other updates it: header by header."""
        silent = other.silent_304
        return other._replace(
            directives=self.directives if silent or not other.directives else other.directives,
            expires_at=self.expires_at if silent or other.expires_at is None else other.expires_at,
            etag=self.etag or other.etag,
            modified=self.modified or other.modified,
        )


def modified_at(version: int) -> str:
    return formatdate(START - 1_000 + version, usegmt=True)


class Windows(NamedTuple):
    """Seconds: fresh, then stale while it is fetched anew, then stale instead of a failure."""

    fresh: float
    revalidate: float
    error: float


def windows(says: Says, policy: CachePolicy, now: float) -> Windows | None:
    """Return how long an answer that came now may be used; None: not at all."""
    said = says.directives
    if says.any_vary or "no-store" in said or "private" in said:
        return None
    lifetime = next((said[name] for name in ("s-maxage", "max-age") if name in said), None)
    if lifetime is None and says.expires_at is not None:
        lifetime = says.expires_at - floor(now)
    fresh = policy.ttl if lifetime is None else min(policy.ttl, max(0, lifetime - (says.age or 0)))
    if "no-cache" in said:
        fresh = 0.0
    if {"no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"} & set(said):
        return Windows(fresh, 0.0, 0.0)
    stale = 0 if lifetime is None else max(0, (says.age or 0) - lifetime)
    while_asked, instead = (None if given is None else max(0, given - stale)
                            for given in map(said.get, ("stale-while-revalidate", "stale-if-error")))  # fmt: skip
    own = policy.stale_while_revalidate, policy.stale_if_error
    most = [MOST_STALE if limit is None else limit for limit in own]
    revalidate = min(while_asked, most[0]) if while_asked is not None else own[0] or 0.0
    return Windows(fresh, revalidate, min(instead, most[1]) if instead is not None else most[1])


class Kept(NamedTuple):
    """What the model's cache holds since `at`: a document, or a failure (`failure` names it) until `until`."""

    at: float
    version: int = 0
    windows: Windows = Windows(0, 0, 0)
    says: Says = Says()
    rest_until: float = 0.0
    late_hits: int = 0
    failure: str | None = None
    until: float = 0.0

    @property
    def as_of(self) -> float:
        return self.at - (self.says.age or 0)

    @property
    def fresh_until(self) -> float:
        return self.at + self.windows.fresh

    @property
    def revalidate_until(self) -> float:
        return self.fresh_until + self.windows.revalidate

    @property
    def error_until(self) -> float:
        return self.fresh_until + self.windows.error

    @property
    def gone_at(self) -> float:
        """Return when it is not even asked about any more."""
        last = self.fresh_until + max(self.windows.revalidate, self.windows.error)
        return self.until if self.failure else last + RETAINED * bool(self.validators())

    def validators(self) -> dict[str, str]:
        asked = {"If-None-Match": f'"{self.version}"' if self.says.etag else None,
                 "If-Modified-Since": modified_at(self.version) if self.says.modified else None}  # fmt: skip
        return {name: value for name, value in asked.items() if value is not None}


class Got(NamedTuple):
    """What a request gets: the document's version or the failure's name, and its age in seconds (None: no document)."""

    state: str
    what: int | str
    age: float | None


class Model:
    """The cache as it should be, for one key; `mind` is what the upstream says now: of a version, or a failure."""

    def __init__(self, policy: CachePolicy, *, shared: bool) -> None:
        self.policy, self.now, self.version, self.shared = policy, START, 0, shared
        self.mind: Says | str = Says()
        self.kept: Kept | None = None
        self.lower: Kept | None = None
        self.asked: list[dict[str, str]] = []

    def clock(self) -> float:
        return self.now

    def restart(self) -> None:
        """Another worker: the lower tier has documents, but neither failures nor what one worker learnt."""
        self.kept = None

    def ask(self, max_age: float | None) -> Got:  # noqa: PLR0911  each rule ends one way
        self.asked = []
        self.forget()
        if self.kept is None and max_age != 0:
            self.kept = self.lower
        kept, now = self.kept, self.now
        if max_age == 0:
            return self.fetch(None, "bypass")
        young = kept is not None and (max_age is None or now - kept.as_of <= max_age)
        if kept is None or not young:
            return self.fetch(kept, "miss", young=False)
        age = now - kept.as_of
        if kept.failure:
            return Got("hit", kept.failure, age)
        if now < kept.fresh_until:
            self.count(kept)
            return Got("hit", kept.version, age)
        if now < min(kept.rest_until, max(kept.error_until, kept.revalidate_until)):
            return Got("stale", kept.version, age)
        if now < kept.revalidate_until:
            self.fetch(kept, "miss")
            return Got("stale", kept.version, age)
        return self.fetch(kept, "miss")

    def forget(self) -> None:
        """What is of no use any more is gone."""
        if self.kept is not None and self.now >= self.kept.gone_at:
            self.kept = None
        if self.lower is not None and self.now >= self.lower.gone_at:
            self.lower = None

    def count(self, kept: Kept) -> None:
        """A document that has many hits near its end is fetched anew."""
        if not self.policy.refresh_ahead or self.now < kept.fresh_until - kept.windows.fresh * LATE:
            return
        kept = self.kept = kept._replace(late_hits=kept.late_hits + 1)
        if kept.late_hits >= HOT and self.now >= kept.rest_until:
            self.fetch(kept, "miss")

    def fetch(self, held: Kept | None, state: str, *, young: bool = True) -> Got:
        validators = held.validators() if held is not None and not held.failure else {}
        self.asked.append(validators)
        if isinstance(self.mind, str):
            return self.failed(self.mind, state, young=young and state != "bypass")
        told = self.mind.headers(self.version, self.now)
        says = self.mind.at(self.now)
        if held is not None and unchanged(validators, told):
            self.keep(held.version, held.says.updated(says))
            return Got("revalidated", held.version, float(says.age or 0))
        self.keep(self.version, says)
        return Got(state, self.version, float(says.age or 0))

    def keep(self, version: int, says: Says) -> None:
        """What was fetched takes the place of what was kept, also if it is not kept itself."""
        window = windows(says, self.policy, self.now)
        self.kept = None if window is None else Kept(self.now, version, window, says)
        self.lower = self.kept if self.shared else None

    def failed(self, name: str, state: str, *, young: bool) -> Got:
        *_, passing, remembered = FAILURES[name]
        kept = self.kept if self.kept is not None and not self.kept.failure else None
        if passing and kept is not None and state != "bypass":
            self.kept = kept._replace(rest_until=self.now + REST)
        if passing and kept is not None and self.now < max(kept.error_until, kept.revalidate_until):
            if not young or self.now >= kept.error_until:
                return Got(state, name, None)
            return Got("stale", kept.version, self.now - kept.as_of)
        if not passing:
            self.kept = self.lower = None
        if remembered and not (passing and state == "bypass"):
            seconds = self.policy.negative_ttl.get(name, REMEMBERED)
            if seconds:
                self.kept = Kept(self.now, failure=name, until=self.now + seconds)
        return Got(state, name, None)


def unchanged(validators: Mapping[str, str], told: Mapping[str, str]) -> bool:
    """Whether the upstream says 304: an If-None-Match goes before an If-Modified-Since (RFC 9110, section 13.2.2)."""
    if "If-None-Match" in validators:
        return validators["If-None-Match"] == told.get("ETag")
    return "If-Modified-Since" in validators and validators["If-Modified-Since"] == told.get("Last-Modified")
