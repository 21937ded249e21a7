"""Hops that can be cut: toxiproxy in front of a server or service (`make tools`)."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest

from tests.stack import PLAIN, eventually, free_port

BINARY = Path(__file__).parent.parent.parent / ".tools" / "bin" / "toxiproxy-server"
Way = Literal["upstream", "downstream"]
"""Upstream is what a client sends, downstream what it is answered."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop by the port that stands for it."""

    api: str
    name: str
    port: int

    def url(self, original: str) -> str:
        """The same URL, through the hop."""
        place = urlsplit(original)
        return original.replace(f"{place.hostname}:{place.port}", f"127.0.0.1:{self.port}")

    @contextmanager
    def cut(self, way: Way) -> Iterator[None]:
        """Let nothing through in one direction; connections stand, as behind a broken switch."""
        with self._toxic("timeout", way, timeout=0):
            yield

    @contextmanager
    def slow(self, milliseconds: int) -> Iterator[None]:
        """Let every answer come later."""
        with self._toxic("latency", "downstream", latency=milliseconds):
            yield

    def reset(self) -> None:
        """End every connection; new ones are taken."""
        self.off()
        self.on()

    def off(self) -> None:
        """End every connection, and take no new one."""
        self._switch(on=False)

    def on(self) -> None:
        """Take connections again."""
        self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        httpx.post(f"{self.api}/proxies/{self.name}", json={"enabled": on}, verify=PLAIN).raise_for_status()

    @contextmanager
    def _toxic(self, kind: str, way: Way, **attributes: int) -> Iterator[None]:
        toxics = f"{self.api}/proxies/{self.name}/toxics"
        toxic = {"name": kind, "type": kind, "stream": way, "attributes": attributes}
        httpx.post(toxics, json=toxic, verify=PLAIN).raise_for_status()
        try:
            yield
        finally:
            httpx.delete(f"{toxics}/{kind}", verify=PLAIN).raise_for_status()


class Hops:
    """One toxiproxy."""

    def __init__(self, api: str) -> None:
        self._api = api

    def to(self, address: str) -> Hop:
        """A new hop to an address, host:port."""
        port = free_port()
        name = f"to-{address.replace(':', '-')}-{port}"
        proxy = {"name": name, "listen": f"127.0.0.1:{port}", "upstream": address, "enabled": True}
        httpx.post(f"{self._api}/proxies", json=proxy, verify=PLAIN).raise_for_status()
        return Hop(self._api, name, port)


@asynccontextmanager
async def toxiproxy() -> AsyncIterator[Hops]:
    """Run a toxiproxy; the tests that need it are skipped where it is not installed."""
    if not BINARY.exists():
        pytest.skip("toxiproxy is not here: make tools")
    port = free_port()
    command = [str(BINARY), "-host", "127.0.0.1", "-port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    api = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            return httpx.get(f"{api}/version", verify=PLAIN).status_code == 200
        except httpx.TransportError:
            return False

    try:
        await eventually(answers)
        yield Hops(api)
    finally:
        process.kill()
        process.wait()
