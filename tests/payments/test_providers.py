"""The file of gateways: what it may say, and that it tells nothing of itself when it is wrong."""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from servers.payments.providers import providers

SANDBOX = {"baseUrl": "http://127.0.0.1:9", "apiKey": "a key", "webhookSecrets": ["a secret"]}
PAYME = {"merchant": "m", "key": "a key", "checkoutUrl": "https://checkout.invalid"}


def written(folder: Path, **selling: Any) -> str:
    file = folder / "payments.json"
    file.write_text(json.dumps(selling))
    return str(file)


async def test_the_default_comes_first(pool: asyncpg.Pool, tmp_path: Path) -> None:
    found = providers(written(tmp_path, default="sandbox", payme=PAYME, sandbox=SANDBOX), pool)

    assert list(found) == ["sandbox", "payme"]
    for provider in found.values():
        await provider.stop()


async def test_nobody_can_pay_play_money_where_others_pay_real_money(pool: asyncpg.Pool, tmp_path: Path) -> None:
    mixed = written(tmp_path, payme={**PAYME, "live": True}, sandbox=SANDBOX)

    with pytest.raises(ValueError, match="live"):
        providers(mixed, pool)


async def test_an_error_holds_no_secret(pool: asyncpg.Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="payme") as wrong:
        providers(written(tmp_path, payme={**PAYME, "key": ["a-secret-key"]}), pool)

    assert "a-secret-key" not in str(wrong.value)
