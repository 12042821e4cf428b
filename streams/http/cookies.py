"""Cookies for the redirects of one request: some upstreams redirect until theirs is sent back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http.cookies import Morsel

import aiohttp
from yarl import URL

from streams.http.auth import Credentials

MAX_COOKIES = 50
"""Cookies accepted from one response (RFC 6265, section 6.1)."""
MAX_COOKIE_BYTES = 4_096
"""Bytes of a cookie, attributes included; larger ones are ignored (RFC 6265, section 6.1)."""

MAX_SEGMENTS = 64
"""Segments of a path for which cookies are looked up, as aiohttp does for each; those of deeper paths are not sent."""

_EPOCH = re.compile(r"(?i);\s*expires\s*=[^;]*\b0?1[ -]jan[ -](?:19)?70\b")
_MAX_AGE = re.compile(r"(?i);\s*max-age\s*=")


class _Jar(aiohttp.CookieJar):
    """Sends a value as it came (RFC 6265, section 5.4). By itself aiohttp puts quotes around some."""

    def _build_morsel(self, cookie: Morsel[str]) -> Morsel[str]:
        return cookie


class Cookies:
    """The cookies set so far, sent by the rules of RFC 6265. None with `credentials` goes to another origin."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._jar = _Jar(unsafe=True)  # "unsafe": also from hosts that are IP addresses
        self._credentials = credentials

    def take(self, url: URL, fields: Sequence[str]) -> None:
        """Store the Set-Cookie fields of a response."""
        self._jar.update_cookies_from_headers(
            [_ending(field) for field in fields if len(field) <= MAX_COOKIE_BYTES][:MAX_COOKIES], url
        )

    def added_to(self, headers: Mapping[str, str], url: URL, *, own: bool) -> Mapping[str, str]:
        """Return the headers with the cookies for this address, in place of those of the same name."""
        segments = url.raw_path.split("/", MAX_SEGMENTS + 1)[: MAX_SEGMENTS + 1]
        place = url.with_path("/".join(segments), encoded=True)
        set_here = {name: morsel.coded_value for name, morsel in self._jar.filter_cookies(place).items()}
        cookies = "; ".join(f"{name}={value}" for name, value in set_here.items())
        if not cookies or (
            not own and self._credentials is not None and self._credentials.contained_in(cookies.encode())
        ):
            return headers
        given = [each for name, value in headers.items() if name.lower() == "cookie" for each in value.split(";")]
        kept = [each.strip() for each in given if each.partition("=")[0].strip() not in set_here]
        rest = {name: value for name, value in headers.items() if name.lower() != "cookie"}
        return {**rest, "Cookie": "; ".join([*kept, cookies])}


def _ending(field: str) -> str:
    """Return a Set-Cookie that expires at the epoch with Max-Age=0: aiohttp ignores that date."""
    return f"{field}; Max-Age=0" if _EPOCH.search(field) and not _MAX_AGE.search(field) else field
