"""Lists of web addresses that nobody vouches for: what can be fetched, and under which names it is kept."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pandas as pd

from emolib.data.files import PICTURE_SUFFIXES, read_table


def read_list(path: str | Path) -> pd.DataFrame:
    """Read a CSV of addresses as `download` wants it: column url, optionally path and emotion.

    Rows with the same path are one picture's addresses, in order. Without a path an address is a picture,
    named after it."""
    table = read_table(path, ["url"], text=True)
    given = table["path"] if "path" in table else pd.Series("", index=table.index)
    named = [re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2] for url in table["url"]]
    table = table.assign(id=given.where(given != "", table["url"]), path=given.where(given != "", named))
    groups = table.groupby("id", sort=False)
    addresses = groups["url"].agg(lambda column: tuple(dict.fromkeys(column)))
    return groups.first().assign(urls=addresses).drop(columns="url").reset_index()


def address_fault(url: str) -> str | None:
    """Say why `url` cannot be fetched; None if it is a well-formed http or https address."""
    if not url.strip():
        return "empty"
    # Scraped lists hold fragments of HTML and control characters; neither can be part of an address.
    if re.search(r'[<>"\x00-\x1f\x7f-\x9f]', url.strip()):
        return "holds markup or control characters"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme.lower() not in ("http", "https"):
        return f"not http or https ({parts.scheme or 'no scheme'})"
    return None if host and re.fullmatch(r"[^\s/\\]+", host) else "names no host"


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also through IPv6 forms that wrap an IPv4 address."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if ip.version == 6:
        nat64 = ip in ipaddress.ip_network("64:ff9b::/96") and ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        wrapped = nat64 or ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if wrapped:
            return is_public(str(wrapped))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False))


def safe_path(name: str) -> str:
    """Make `name` a relative path (with /) that stays below its folder and that every file system takes."""
    parts = []
    for part in re.split(r"[/\\]", name):
        part = re.sub(r'[<>:"|?*\x00-\x1f\x7f]', "_", part).strip(" ").rstrip(".")
        if not part:
            continue
        if part.startswith(".") or re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part.lower()):
            part = "_" + part  # hidden, or a device of Windows
        if len(part.encode()) > 150:
            stem, dot, suffix = part.rpartition(".")
            if not stem or len(suffix) > 8:
                stem, dot, suffix = part, "", ""
            short = stem.encode()[:120].decode(errors="ignore")
            part = f"{short}-{_short_hash(part)}{dot}{suffix}"
        parts.append(part)
    return "/".join(parts) or "picture"


def name_files(pictures: pd.DataFrame) -> pd.DataFrame:
    """Give pictures ids, and file names that no two share, also in a file system blind to case.

    All pictures of a shared name are renamed, so that names depend neither on the order nor on `limit`."""
    pictures = pictures if "id" in pictures else pictures.assign(id=pictures["path"])
    paths = pd.Series([safe_path(path) for path in pictures["path"]], index=pictures.index, dtype=object)
    names = paths.str.lower()
    shared = names.duplicated(keep=False) | ~names.str.endswith(tuple(PICTURE_SUFFIXES))
    marked = [mark_name(p, k) if s else p for p, k, s in zip(paths, pictures["id"], shared, strict=True)]
    return pictures.assign(path=marked)


def mark_name(path: str, key: str) -> str:
    """Put eight digits of the id's hash into `path`, before the suffix."""
    pure = PurePosixPath(path)
    return str(pure.with_stem(f"{pure.stem}-{_short_hash(str(key))}"))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
