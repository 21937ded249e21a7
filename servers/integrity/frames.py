"""Pictures of webcams in a bucket of S3's kind, under the session's id: this process gives addresses, and never sees a picture."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from stores.buckets import Bucket  # its libraries are an extra

UPLOAD_SECONDS = 120
DAY_MS = 86_400_000
FOLDER = "frames"


@dataclass(frozen=True, slots=True)
class Link:
    """Where one picture goes, until when, and when it is deleted."""

    url: str
    expires_ms: int
    kept_until_ms: int


class Frames:
    """The bucket. It deletes pictures by itself after `days`, by its lifecycle rule."""

    def __init__(self, bucket: "Bucket", days: int) -> None:
        self._bucket = bucket
        self._days = days

    def upload(self, session: UUID, frame: UUID, content_type: str, size: int, now_ms: int) -> Link:
        """Return an address for one picture of this type and size. Asks nobody."""
        url = self._bucket.upload_link(key(session, frame), content_type, size, UPLOAD_SECONDS)
        return Link(url, now_ms + UPLOAD_SECONDS * 1000, now_ms + self._days * DAY_MS)

    async def erase(self, sessions: Sequence[UUID]) -> int:
        """Delete the pictures of sessions; returns how many there were. Raises OSError where the bucket does not answer."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return sum([await asyncio.to_thread(self._bucket.delete_under, f"{FOLDER}/{session}/") for session in sessions])
        except (BotoCoreError, ClientError) as failure:
            raise OSError(f"the bucket of frames: {type(failure).__name__}") from None


def key(session: UUID, frame: UUID) -> str:
    """Return where a picture lies."""
    return f"{FOLDER}/{session}/{frame}"
