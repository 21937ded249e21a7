"""A bucket that takes uploads, as a counterpart: it holds requests against the rules of Signature Version 4, lists and deletes.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import parse_qsl, quote, urlsplit
from xml.sax.saxutils import escape

from tests.media.bucket import KEY_ID, SECRET


def refusal(method: str, target: str, headers: Mapping[str, str], now: datetime) -> str:
    """Return why a presigned request is refused; empty when it is as it was signed."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    given = query.pop("X-Amz-Signature", "")
    if not given or now > datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(
        seconds=int(query["X-Amz-Expires"])
    ):
        return "AccessDenied"
    scope = query["X-Amz-Credential"].partition("/")[2]
    names = query["X-Amz-SignedHeaders"].split(";")
    listed = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    signed = "".join(f"{name}:{headers.get(name, '')}\n" for name in names)
    request = f"{method}\n{parts.path}\n{listed}\n{signed}\n{';'.join(names)}\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), sha256).digest()
    right = hmac.new(key, text.encode(), sha256).hexdigest()
    return "" if hmac.compare_digest(right, given) else "SignatureDoesNotMatch"


@asynccontextmanager
async def serving(files: dict[str, bytes], bucket: str) -> AsyncIterator[str]:
    """Keep files by key in `files`; gives the endpoint."""

    def answered(method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
        parts, query = urlsplit(target), dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
        own = headers.get("authorization", "").startswith(f"AWS4-HMAC-SHA256 Credential={KEY_ID}/")
        if method == "PUT":
            why = refusal(method, target, headers, datetime.now(UTC))
            if why:
                return "403 Forbidden", f"<Error><Code>{why}</Code></Error>"
            files[parts.path.removeprefix(f"/{bucket}/")] = body
            return "200 OK", ""
        if not own:
            return "403 Forbidden", "<Error><Code>AccessDenied</Code></Error>"
        if method == "GET":
            found = sorted(key for key in files if key.startswith(query["prefix"]))[: int(query["max-keys"])]
            keys = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in found)
            return "200 OK", f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{keys}</ListBucketResult>"
        assert (method, "delete" in query) == ("POST", True)
        for key in re.findall(r"<Key>([^<]+)</Key>", body.decode()):
            files.pop(key, None)
        return "200 OK", "<DeleteResult></DeleteResult>"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            status, text = answered(*first.split(" ")[:2], headers, body)
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
            writer.write((head + text).encode())
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
