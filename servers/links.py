"""Links: addresses of media that carry their own right, for a while. Pure: the time is an argument.

A link is `{base}/{key}.{expires}.{signature}/{folder}/{file}`. The signature is base64url(HMAC-SHA256(secret, text)) without
padding, and the text is `{key}.{expires}/{folder}/`: so one link opens one folder, and every relative URL in a playlist keeps
its right. Whoever has the secret checks it: the origin here, or a CDN's edge (docs/lectures.md).
"""

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

TOKEN = re.compile(r"([a-z0-9]{1,16})\.([1-9][0-9]{9})\.([A-Za-z0-9_-]{43})", re.ASCII)
FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
SHORTEST_SECRET = 32


class Signer(Protocol):
    """Makes links that open a file of a folder until they expire. tests/media/test_links.py says what each has to keep."""

    def link(self, folder: str, file: str, expires: int) -> str:
        """Return a link; `expires` is in seconds since 1970, and the last one in which it opens anything."""
        ...


@dataclass(frozen=True, slots=True)
class MediaKey:
    """A secret that links are signed with, and its name in them."""

    id: str
    secret: bytes = field(repr=False)


def read_keys(text: str) -> Sequence[MediaKey]:
    """Read keys out of a JWK set of secrets (`kty` oct); the first one signs, all are taken. Raises ValueError."""
    keys = [MediaKey(str(one["kid"]), _decoded(str(one["k"]))) for one in json.loads(text)["keys"]]
    for key in keys:
        if not re.fullmatch("[a-z0-9]{1,16}", key.id, re.ASCII) or len(key.secret) < SHORTEST_SECRET:
            raise ValueError(f"media key {key.id!r}: a kid is 1 to 16 of a-z and 0-9, a secret at least {SHORTEST_SECRET} bytes")
    if not keys or len({key.id for key in keys}) < len(keys):
        raise ValueError("there has to be a media key, and no two with one kid")
    return keys


class PathSigner:
    """Signs a folder: the link's token stands before it in the path, so that one signature covers all that a playlist names."""

    def __init__(self, base: str, key: MediaKey) -> None:
        self._base = base.rstrip("/")
        self._key = key

    def link(self, folder: str, file: str, expires: int) -> str:
        """Return a link to a file, which opens the whole folder."""
        return f"{self._base}/{self._key.id}.{expires}.{_signature(self._key, expires, folder)}/{folder}/{file}"


class Gate:
    """Says whether a link's token opens a folder."""

    def __init__(self, keys: Sequence[MediaKey]) -> None:
        self._keys = {key.id: key for key in keys}

    def opens(self, token: str, folder: str, now: float) -> int | None:
        """Return when the token expires, in seconds since 1970; None where it does not open the folder now, for whatever reason."""
        found = TOKEN.fullmatch(token)
        key = self._keys.get(found[1]) if found else None
        if found is None or key is None or not FOLDER.fullmatch(folder):
            return None
        expires = int(found[2])
        right = hmac.compare_digest(found[3], _signature(key, expires, folder))
        return expires if right and now <= expires else None


def good_until(now: float, seconds: int) -> int:
    """Return when a link that is given now expires: after at least `seconds`, and at most half of that more.

    Moments are rounded up to half of `seconds`, so that all who ask meanwhile get the same link, and caches keep one copy.
    """
    step = max(1, seconds // 2)
    return -(-(int(now) + seconds) // step) * step


def _signature(key: MediaKey, expires: int, folder: str) -> str:
    digest = hmac.new(key.secret, f"{key.id}.{expires}/{folder}/".encode(), sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
