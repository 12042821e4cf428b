"""URLs as they are sent: legal characters stay byte for byte, others are percent-encoded (RFC 3986, section 2).

yarl rewrites legal escapes unless `encoded=True`, and then accepts any text: so the text is made legal here, and yarl
only parses the host. The guard checks what aiohttp dials.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from yarl import URL

from models.errors import InvalidRequest
from models.url import MAX_URL, check_host

# Normal already: lower-case ASCII host, no default port, a path, and nothing to escape or leave out.
_USUAL = re.compile(
    r"https?://(?![^/]*xn--)(?:[a-z0-9-]{1,63}+(?:\.|(?=[:/])))++(?<!.{261})"
    r"(?::(?!(?:80|443)/)(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
    r"/(?:[!$&-;=?-\[\]_a-z|~]++|%[0-9A-Fa-f]{2})*+(?<!\?)"
)
# RFC 3986, appendix B.
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
# `[`, `]` and `|` go as they are, as the URL standard has it and many APIs want it; a `%` without its digits does not.
_LEGAL = "!$%&'()*+,/:;=?@[]|"
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")
_NOT_IN_AUTHORITY = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")
_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")
MAX_PORT = 65_535
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
_AUTHORITY = re.compile(r"[^:]*://(?:[^@]*@)?(.*)", re.DOTALL)


class Origin(NamedTuple):
    """Where a URL points: `authority` as limits name it, without a port that is the scheme's own; `host` with its port
    in any case, None if there is none.
    """

    authority: str
    host: str | None


NOWHERE = Origin("", None)
"""The origin of a function, and of a text that is no URL."""


class _Parts(NamedTuple):
    scheme: str | None
    authority: str | None
    path: str
    query: str | None
    """With its question mark; None without one, which differs from an empty query."""


def parse(url: str) -> URL:
    """Return the URL to request: scheme and host in lower case, no fragment, no default port.

    Raises InvalidRequest for anything but an http(s) URL.
    """
    if _USUAL.fullmatch(url):
        if "?" in url:
            return URL(url, encoded=True)
        slash = url.index("/", 8)  # behind `https://`, or within a host of some letters behind `http://`
        return _root(url[:slash]).with_path(url[slash:], encoded=True)
    parts = _split(url)
    try:
        parsed = _built(parts)
        valid = parsed.host and parsed.scheme in _DEFAULT_PORTS
    except ValueError:
        valid = False
    if not valid:
        msg = "url: is not an http(s) URL"
        raise InvalidRequest(msg)
    return parsed


@lru_cache(maxsize=1_024)
def _root(origin: str) -> URL:
    """Return the root of an origin: to add a path to it takes a third of what it takes to parse a URL."""
    return URL(f"{origin}/", encoded=True)


def normal(url: str) -> str:
    """Return one text for all spellings of a URL; an invalid URL stays as it is."""
    if _USUAL.fullmatch(url):
        return url
    try:
        return str(parse(url))
    except InvalidRequest:
        return url


def origin_of(url: str | None) -> Origin:
    """Return where a URL points, one object for all URLs of an origin."""
    found = _ORIGIN.match(url or "")
    return NOWHERE if found is None else _origin_of(found[0])


def without_default_port(authority: str) -> str:
    """Return a host and its port in lower case, without a port that is a scheme's own."""
    return authority.lower().removesuffix(":80").removesuffix(":443")


@lru_cache(maxsize=1_024)
def _origin_of(origin: str) -> Origin:
    found = _AUTHORITY.match(origin)
    authority = without_default_port(found[1]) if found else ""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return Origin(authority, None)
    if not host or not port:
        return Origin(authority, None)
    return Origin(authority, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def resolve(base: URL, reference: str) -> URL:
    """Return the target of a Location (RFC 3986, section 5.2). Raises ValueError for an invalid URL.

    Bytes that are not UTF-8 are surrogates in it, as in aiohttp, and are percent-encoded.
    """
    parts = _split(reference)
    if parts.scheme is None or (parts.scheme == base.scheme and parts.authority is None):  # section 5.4.2
        parts = _joined(_split(str(base)), parts)
    if parts.authority is not None and len(parts.path) + len(parts.query or "") > MAX_URL:
        msg = "too long for a URL"
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
    """Return the URL, encoded. Raises ValueError."""
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
    """Percent-encode what is not legal, byte by byte: 16,384 characters of any kind take some milliseconds."""
    return quote(_STRAY.sub("%25", text), safe=_LEGAL, errors="surrogateescape")
