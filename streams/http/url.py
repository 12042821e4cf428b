"""URLs as they are sent: what is legal stays byte for byte, what is not is percent-encoded (RFC 3986, section 2).

yarl rewrites legal escapes unless it is told that a text is encoded already, and then takes any text: so the text is
made legal here, and only the host is yarl's to read. What the guard judges is what aiohttp dials.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from yarl import URL

from models.errors import InvalidRequest
from models.request import MAX_URL, check_host

# What needs no look: lower-case host of plain ASCII, no port that may be left out, a path, and nothing that would be
# escaped or left out.
_USUAL = re.compile(
    r"https?://(?![^/]*xn--)(?:[a-z0-9-]{1,63}+(?:\.|(?=[:/])))++(?<!.{261})"
    r"(?::(?!(?:80|443)/)(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
    r"/(?:[!$&-;=?-\[\]_a-z|~]++|%[0-9A-Fa-f]{2})*+(?<!\?)"
)
# RFC 3986, appendix B.
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
# `[`, `]` and `|` go as they are, as the URL standard has it and many APIs want it; a `%` without its digits does not.
_ILLEGAL = re.compile(r"[^!$-;=?-\[\]_a-z|~]|%(?![0-9A-Fa-f]{2})")
_PLAIN_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")
_NOT_IN_AUTHORITY = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")
_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")
MAX_PORT = 65_535
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class _Parts(NamedTuple):
    scheme: str | None
    authority: str | None
    path: str
    query: str | None
    """With its question mark; None if there is none, which is not the same as an empty one."""


def parse(url: str) -> URL:
    """Return the URL that is asked for: scheme and host in lower case, no fragment, no port that is the scheme's own.

    Raises InvalidRequest for what is no http(s) URL.
    """
    if _USUAL.fullmatch(url):
        return URL(url, encoded=True)
    parts = _split(url)
    try:
        parsed = _built(parts)
        valid = parsed.host and parsed.scheme in _DEFAULT_PORTS
    except ValueError:
        valid = False
    if not valid:
        msg = "url: is no http(s) URL"
        raise InvalidRequest(msg)
    return parsed


def normal(url: str) -> str:
    """Return the text that is the same for all spellings of one URL; what is no URL is left as it is."""
    if _USUAL.fullmatch(url):
        return url
    try:
        return str(parse(url))
    except InvalidRequest:
        return url


def resolve(base: URL, reference: str) -> URL:
    """Return what a Location points to (RFC 3986, section 5.2). Raises ValueError for what is no URL.

    Bytes that are no UTF-8 are surrogates in it, as aiohttp has them, and are percent-encoded.
    """
    parts = _split(reference)
    if parts.scheme is None or (parts.scheme == base.scheme and parts.authority is None):  # section 5.4.2
        parts = _joined(_split(str(base)), parts)
    if parts.authority is not None and len(parts.path) + len(parts.query or "") > MAX_URL:
        msg = "longer than any URL that is taken"
        raise ValueError(msg)
    return _built(parts)


def _split(text: str) -> _Parts:
    found = _PARTS.fullmatch(text)
    assert found is not None  # it takes any text
    scheme = found[1]
    return _Parts(scheme and scheme.lower(), found[2], found[3], found[4])


def _joined(base: _Parts, reference: _Parts) -> _Parts:
    if reference.authority is not None:
        return reference._replace(scheme=base.scheme, path=_without_dots(reference.path))
    if not reference.path:
        return base if reference.query is None else base._replace(query=reference.query)
    path = reference.path
    if not path.startswith("/"):
        path = base.path[: base.path.rfind("/") + 1] + path
    return base._replace(path=_without_dots(path), query=reference.query)


def _without_dots(path: str) -> str:
    """Remove the dot segments of a path (RFC 3986, section 5.2.4), and nothing else."""
    if _DOTS.search(path) is None:
        return path
    kept: list[str] = []
    first, *segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join([first, *kept])


def _built(parts: _Parts) -> URL:
    """Return a URL for yarl to take as it is. Raises ValueError."""
    scheme, authority, path, query = parts
    if scheme not in _DEFAULT_PORTS or not authority:
        return URL.build(scheme=scheme or "", host="")
    path, query = _escaped(path) or "/", _escaped(query or "")
    if query == "?":
        path, query = path + query, ""  # yarl leaves out a question mark without a query
    built = URL.build(
        scheme=scheme, authority=_authority(scheme, authority), path=path, query_string=query[1:], encoded=True
    )
    _ = built.host  # UnicodeError for an `xn--` name that stands for none: better here than wherever it is read first
    return built


def _authority(scheme: str, text: str) -> str:
    check_host(text)
    found = _PLAIN_AUTHORITY.fullmatch(text)
    if found is not None:
        host, port = found[1].lower(), found[2]
    else:  # an IPv6 address, a name that is no ASCII, credentials, or none of these: yarl says
        if _NOT_IN_AUTHORITY.search(text):  # some of which yarl would leave out
            msg = "no host"
            raise ValueError(msg)
        read = URL(f"{scheme}://{text}")
        if read.user is not None or read.password is not None:
            return read.raw_authority  # the guard refuses it
        if read.host_subcomponent is None or read.path != "/":
            msg = "no host"
            raise ValueError(msg)
        host, port = read.host_subcomponent, "" if read.explicit_port is None else str(read.explicit_port)
    port = (port or "").lstrip("0") or (port or "")[:1]
    if port and int(port) > MAX_PORT:
        msg = "no port"
        raise ValueError(msg)
    return host if not port or port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"


def _escaped(text: str) -> str:
    return _ILLEGAL.sub(_percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogateescape"))
