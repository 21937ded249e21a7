"""A bucket that takes uploads, as a counterpart: it holds them against the rules that media's keeps too, lists and deletes."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from tests.media.bucket import KEY_ID, refusal


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
