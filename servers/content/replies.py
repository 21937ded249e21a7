"""What every reply of content carries: an ETag, for how long it may be kept, and whether it is stale."""

from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from google.protobuf.message import Message

from servers.serving.wrap import Call
from stores.shelf import Kept

Value = TypeVar("Value")

STALE = "x-finalbell-stale"
IF_AWAY = "stale-if-error=86400"
PRIVATE = f"private, max-age=0, {IF_AWAY}"
"""For what the caller may read and others may not: asked again each time, kept for when there is no answer."""

IMMUTABLE = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A reply's message, encoded, with its ETag."""

    message: bytes
    etag: str


def encoded(message: Message | bytes) -> Encoded:
    """Encode a reply, for one caller or for all of them."""
    data = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
    return Encoded(data, f'"{sha256(data).hexdigest()[:32]}"')


class Reply:
    """One reply in the making: what it is taken from decides whether it is stale."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._stale: float | None = None

    def take(self, kept: Kept[Value]) -> Value:
        """Take something off a shelf: the reply is as stale as the stalest thing in it."""
        if kept.stale_seconds is not None:
            self._stale = max(self._stale or 0.0, kept.stale_seconds)
        return kept.value

    def send(self, reply: Encoded, cache_control: str = PRIVATE, empty: bytes = b"") -> bytes:
        """Send a reply, or, where the caller has it already, 304 and an empty one."""
        self._call.header("etag", reply.etag)
        # What anybody may have lies in caches that pages of several origins share, and the gateway names one origin in it.
        self._call.header("vary", "origin" if cache_control == IMMUTABLE else "authorization")
        self.mark(cache_control)
        tags = [one.strip().removeprefix("W/") for one in self._call.sent.get("if-none-match", "").split(",")]
        if reply.etag in tags:
            self._call.answer_with(304)
            return empty
        return reply.message

    def mark(self, cache_control: str) -> None:
        """Say for how long the reply may be kept, and whether it is stale."""
        self._call.header("cache-control", cache_control)
        if self._stale is not None:
            self._call.header(STALE, str(int(self._stale)))
