"""Which strings of an untrusted list are web addresses at all, and how they are written down for a
request."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

# Scraped lists hold fragments of HTML and control characters; neither can be part of an address.
_GARBAGE = re.compile(r'[<>"\x00-\x1f\x7f-\x9f]')
_HOST = re.compile(r"[^\s/\\]+")
# What some file system forbids in a name, and Windows' device names.
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 150


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


def safe_path(name: str) -> str:
    """`name` as a relative path (with /) that stays below its folder and that every file system takes."""
    parts = []
    for part in re.split(r"[/\\]", name):
        part = _FORBIDDEN.sub("_", part).strip(" ").rstrip(".")
        if not part:
            continue
        if part.startswith(".") or _DEVICE.fullmatch(part):
            part = "_" + part
        if len(part.encode()) > _LONGEST:
            stem, dot, suffix = part.rpartition(".")
            if not stem or len(suffix) > 8:
                stem, dot, suffix = part, "", ""
            short = stem.encode()[: _LONGEST - 30].decode(errors="ignore")
            part = f"{short}-{hashlib.sha256(part.encode()).hexdigest()[:8]}{dot}{suffix}"
        parts.append(part)
    return "/".join(parts) or "picture"
