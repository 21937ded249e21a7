"""A real bucket of somebody else's code: the Versity S3 gateway over a folder. `make .tools/bin/versitygw` has it."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from servers.media.bucket import Bucket
from tests.media.bucket import KEY_ID, REGION, SECRET
from tests.stack import free_port

BINARY = Path(__file__).parent.parent.parent / ".tools" / "bin" / "versitygw"
START_SECONDS = 20


@asynccontextmanager
async def serving(files: Mapping[str, bytes], name: str, folder: Path) -> AsyncIterator[str]:
    """Serve files out of a bucket, and give its endpoint; botocore's credentials in the environment are the bucket's.

    Skips the test where the server is not built.
    """
    if not BINARY.exists():
        pytest.skip("the Versity S3 gateway is not here: make .tools/bin/versitygw")
    port = free_port()
    command = [BINARY, "--port", f"127.0.0.1:{port}", "--access", KEY_ID, "--secret", SECRET, "--region", REGION, "posix", folder]
    endpoint = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}
    ) as process:
        try:
            client = Bucket(name, endpoint).client
            async with asyncio.timeout(START_SECONDS):
                while not await _made(client, name):
                    await asyncio.sleep(0.1)
            for key, content in files.items():
                await asyncio.to_thread(client.put_object, Bucket=name, Key=key, Body=content)
            yield endpoint
        finally:
            process.terminate()


async def _made(client: object, name: str) -> bool:
    """Make a bucket; False: the server does not listen yet."""
    try:
        await asyncio.to_thread(client.create_bucket, Bucket=name)  # type: ignore[attr-defined]
    except EndpointConnectionError:
        return False
    return True
