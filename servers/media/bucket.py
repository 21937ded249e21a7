"""Files in a bucket of S3's kind: playlists are answered, and everything else is a redirect to an address that S3 itself checks."""

import asyncio
from time import time

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from stores.buckets import Bucket

LARGEST_PLAYLIST = 4 << 20
REDIRECT_SECONDS, REDIRECT_SPARE_SECONDS = 300, 60
GONE = {"NoSuchKey", "404"}
log = structlog.get_logger()


class Presigner:
    """Signs one file, for S3: nothing else in its folder. A playlist behind such a link names files that it does not open."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def link(self, folder: str, file: str, expires: int) -> str:
        """Return a presigned link; S3 takes none that is good for more than a week."""
        where = {"Bucket": self._bucket.name, "Key": f"{folder}/{file}"}
        seconds = max(1, expires - int(time()))
        return str(self._bucket.client.generate_presigned_url("get_object", Params=where, ExpiresIn=seconds))


class BucketShelf:
    """Files of a bucket, behind the origin's own links.

    A player reads a playlist once, and what it names for hours: presigned addresses written into it would die in mid-play. So the
    playlist stays as it is, its relative addresses come back here with the link that is good by then, and each is sent on.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._presigner = Presigner(bucket)

    async def get(self, folder: str, file: str, scope: Scope, expires: int) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if file.endswith(".m3u8"):
            return Response(await asyncio.to_thread(self._read, f"{folder}/{file}"))
        until = min(expires, int(time()) + REDIRECT_SECONDS)
        headers = {"cache-control": f"private, max-age={max(0, until - int(time()) - REDIRECT_SPARE_SECONDS)}"}
        return RedirectResponse(self._presigner.link(folder, file, until), 307, headers)

    def _read(self, key: str) -> bytes:
        try:
            text: bytes = self._bucket.client.get_object(Bucket=self._bucket.name, Key=key)["Body"].read(LARGEST_PLAYLIST)
        except (ClientError, BotoCoreError) as failure:
            code = failure.response["Error"]["Code"] if isinstance(failure, ClientError) else ""
            if code in GONE:
                raise HTTPException(404) from None
            log.warning("bucket unavailable", error=f"{type(failure).__name__}: {code}")
            raise HTTPException(503, headers={"Retry-After": "2"}) from None
        return text
