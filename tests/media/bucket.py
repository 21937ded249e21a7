"""A bucket as a counterpart: holds presigned links against the rules that AWS publishes for Signature Version 4.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import parse_qsl, quote, urlsplit

KEY_ID, SECRET, REGION = "AKIDEXAMPLE", "a-secret-of-the-tests", "eu-central-1"


def refusal(method: str, target: str, headers: Mapping[str, str], now: datetime, secret: str = SECRET) -> str:
    """Return why a presigned request is refused now; empty when it is as it was signed."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    given = query.pop("X-Amz-Signature", "")
    if not given:
        return "AccessDenied"
    began = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if now > began + timedelta(seconds=int(query["X-Amz-Expires"])):
        return "expired"
    scope = query["X-Amz-Credential"].partition("/")[2]
    names = query["X-Amz-SignedHeaders"].split(";")
    listed = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    signed = "".join(f"{name}:{headers.get(name, '')}\n" for name in names)
    request = f"{method}\n{parts.path}\n{listed}\n{signed}\n{';'.join(names)}\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), sha256).digest()
    right = hmac.new(key, text.encode(), sha256).hexdigest()
    return "" if hmac.compare_digest(right, given) else "SignatureDoesNotMatch"


@asynccontextmanager
async def serving(files: Mapping[str, bytes], bucket: str) -> AsyncIterator[str]:
    """Serve files to who has a presigned link, or signs the request; gives the endpoint."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            _, target, _ = head.split("\r\n", 1)[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])}
            file = files.get(urlsplit(target).path.removeprefix(f"/{bucket}/"))
            signed = headers.get("authorization", "").startswith(f"AWS4-HMAC-SHA256 Credential={KEY_ID}/")
            why = "" if signed else refusal("GET", target, headers, datetime.now(UTC))
            status, code = ("403 Forbidden", "AccessDenied") if why else ("404 Not Found", "NoSuchKey")
            body = f"<Error><Code>{code}</Code><Message>{why}</Message></Error>".encode()
            if file is not None and not why:
                status, body = "200 OK", file
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
