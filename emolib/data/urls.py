"""Which strings of an untrusted list are web addresses at all, and how they are written down for a
request."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# Scraped lists hold fragments of HTML and control characters; neither can be part of an address.
_GARBAGE = re.compile(r'[<>"\x00-\x1f\x7f-\x9f]')
_HOST = re.compile(r"[^\s/\\]+")


def fault(url: str) -> str | None:
    """Why `url` cannot be fetched, or None if it is a well-formed http or https address."""
    if not url.strip():
        return "empty"
    if _GARBAGE.search(url.strip()):
        return "holds markup or control characters"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme.lower() not in ("http", "https"):
        return f"not http or https ({parts.scheme or 'no scheme'})"
    if not host or not _HOST.fullmatch(host):
        return "names no host"
    return None
