"""What we ask of Click, by its Merchant API: what has become of a payment, and that it be given back.

Source: Click's documentation, "Merchant – Request". A payment's id there is the `click_paydoc_id` of the SHOP API.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import date
from uuid import UUID

import httpx

from servers.payments.provider import GatewayAway, GatewayRefused

ANSWER_SECONDS = 4.0
"""How long Click may take for one call; a look takes up to three, and our own caller has ten seconds and more."""

SUCCESSFUL = 2
"""`payment_status` of a payment that is made; 0 and 1 are under way, and what is negative has failed, or was given back."""


class MerchantApi:
    """Click's Merchant API for one service. Every method raises GatewayAway; a refusal of Click's is GatewayRefused."""

    def __init__(
        self,
        base_url: str,
        *,
        service: str,
        user: str,
        secret: str,
        seconds: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`base_url` ends in `/merchant`; `user` is the merchant's user id; `seconds` the time since 1970."""
        self._service = service
        self._user = user
        self._secret = secret
        self._seconds = seconds
        self._http = httpx.AsyncClient(base_url=base_url, timeout=ANSWER_SECONDS, transport=transport)

    async def stop(self) -> None:
        """Close the connections to Click."""
        await self._http.aclose()

    async def payment(self, order: UUID, day: date) -> int | None:
        """Return Click's id of the payment of an order on a day, in Tashkent; None: there is none."""
        found = await self._ask("GET", f"/payment/status_by_mti/{self._service}/{order}/{day.isoformat()}")
        payment = found.get("payment_id")
        return payment if found["error_code"] == 0 and type(payment) is int and payment > 0 else None

    async def status(self, payment: int) -> int | None:
        """Return the `payment_status` of a payment; None: Click knows none."""
        found = await self._ask("GET", f"/payment/status/{self._service}/{payment}")
        status = found.get("payment_status")
        return status if found["error_code"] == 0 and type(status) is int else None

    async def reverse(self, payment: int) -> None:
        """Give a payment back, all of it, once: one that is given back already is left as it is."""
        found = await self._ask("DELETE", f"/payment/reversal/{self._service}/{payment}")
        if found["error_code"] == 0:
            return
        status = await self.status(payment)
        if status is None or status >= 0:
            raise GatewayRefused(f"Click did not give the payment back: {found['error_code']}.")

    async def _ask(self, method: str, path: str) -> dict[str, object]:
        headers = {"Accept": "application/json", "Auth": self._auth()}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):  # the client's own is for each piece of an answer
                answer = await self._http.request(method, path, headers=headers)
            found: object = answer.json()
        except (httpx.HTTPError, TimeoutError) as failed:
            raise GatewayAway(f"Click does not answer: {type(failed).__name__}.") from None
        except (ValueError, RecursionError):
            raise GatewayAway("Click did not answer in JSON.") from None
        if answer.status_code != httpx.codes.OK or not isinstance(found, dict) or type(found.get("error_code")) is not int:
            raise GatewayAway(f"Click answered {answer.status_code}, and nothing that says what happened.")
        return found

    def _auth(self) -> str:
        """Return the header that signs a call, good for the second in which it is made."""
        now = str(int(self._seconds()))
        return f"{self._user}:{hashlib.sha1((now + self._secret).encode()).hexdigest()}:{now}"  # noqa: S324
