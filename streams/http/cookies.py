"""Cookies, which live as long as one request's redirects: some upstreams redirect until theirs comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

from streams.http.auth import Credentials

MAX_COOKIES = 50
"""Cookies that are taken from one answer (RFC 6265, section 6.1)."""
MAX_COOKIE_BYTES = 4_096
"""Bytes of one, attributes included, past which it is left out (RFC 6265, section 6.1)."""


class Cookies:
    """What the answers so far have set, each for where RFC 6265 has it go. None of the `credentials` goes elsewhere."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._jar = aiohttp.CookieJar(unsafe=True)  # "unsafe": also from hosts that are IP addresses
        self._credentials = credentials

    def take(self, url: URL, fields: Sequence[str]) -> None:
        """Take the Set-Cookie fields of an answer."""
        self._jar.update_cookies_from_headers(
            [field for field in fields if len(field) <= MAX_COOKIE_BYTES][:MAX_COOKIES], url
        )

    def added_to(self, headers: Mapping[str, str], url: URL, *, own: bool) -> Mapping[str, str]:
        """Return the headers with the cookies for this address, in place of those of the same name."""
        set_here = {name: morsel.coded_value for name, morsel in self._jar.filter_cookies(url).items()}
        cookies = "; ".join(f"{name}={value}" for name, value in set_here.items())
        if not cookies or (
            not own and self._credentials is not None and self._credentials.contained_in(cookies.encode())
        ):
            return headers
        given = [each for name, value in headers.items() if name.lower() == "cookie" for each in value.split(";")]
        kept = [each.strip() for each in given if each.partition("=")[0].strip() not in set_here]
        rest = {name: value for name, value in headers.items() if name.lower() != "cookie"}
        return {**rest, "Cookie": "; ".join([*kept, cookies])}
