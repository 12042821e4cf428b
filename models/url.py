"""What a URL of a request may be: absolute, http or https, without credentials, with a host that the DNS can hold."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

from models.errors import Denied
from models.schema import refuse

MAX_URL = 16_384
"""Characters of a URL: twice what every receiver should take (RFC 9110, section 4.1), as pre-signed ones are long."""
MAX_HOST, MAX_LABEL = 253, 63
"""Characters of a host, and of one of its labels (RFC 1035, section 2.3.4), also as it is before IDNA: that takes
quadratic time."""

_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\\]")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{0,5})?")
# Matches most valid URLs without parsing them; a URL that it does not match is parsed.
USUAL_URL = re.compile(
    r"https?://(?:[A-Za-z0-9-]{1,63}+(?:\.|(?![A-Za-z0-9-])))++(?<!.{261})(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?(?:/[!#-;=?-\[\]_a-z|~]*)?"
)
_HOST_OF = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_PORT = re.compile(r":[0-9]*\Z")
_DOT = re.compile("[.\u3002\uff0e\uff61]")  # what IDNA treats as a dot


def check_url(url: str) -> None:
    """Raise ValidationError if `url` is not a valid absolute http(s) URL, Denied if it has credentials."""
    if USUAL_URL.fullmatch(url) and len(url) <= MAX_URL:
        return
    if len(url) > MAX_URL:
        refuse(f"has {len(url)} characters; at most {MAX_URL} are allowed")
    if _NOT_IN_URL.search(url):
        refuse("has a space, backslash or control character: percent-encode it")
    found = _HOST_OF.match(url)
    try:
        check_host(found[1] if found else "")
    except ValueError as exc:
        refuse(str(exc))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may quote the whole URL with its credentials
        refuse("is not a valid URL")
    if parts.scheme not in ("http", "https"):
        refuse("must be an absolute http:// or https:// URL")
    if not parts.hostname or not _AUTHORITY.fullmatch(parts.netloc.rpartition("@")[2]):
        refuse("has no valid host")
    if "@" in parts.netloc:
        msg = "url: credentials in a URL are not allowed; send an Authorization header"
        raise Denied(msg)
    if port == 0:
        refuse("has no valid port")


def check_host(authority: str) -> None:
    """Raise ValueError if the host in an authority, or one of its labels, is too long for the DNS."""
    host = _PORT.sub("", authority.rpartition("@")[2]).removesuffix(".")
    if len(host) <= MAX_HOST and not host.isascii():
        host = unicodedata.normalize("NFKC", host)  # in which one character may be eighteen
    if len(host) > MAX_HOST:
        msg = f"has a host of {len(host)} characters; a name in the DNS has {MAX_HOST} at most"
        raise ValueError(msg)
    longest = max(map(len, _DOT.split(host)))
    if longest > MAX_LABEL:
        msg = f"has a host with a label of {longest} characters; one in the DNS has {MAX_LABEL} at most"
        raise ValueError(msg)
