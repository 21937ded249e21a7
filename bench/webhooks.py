"""Webhooks of a busy day through the gateway: replayed, reordered, refunded. Exit code 1 when somebody owns what they should not.

python -m bench.webhooks [--orders 20000] [--rate 500] [--replays 0.3] [--short]

Each order is paid; a fifth are refunded whole, some disputed and won. Events are signed as the sandbox signs them, shuffled among
their neighbours, so that refunds come before payments, and 30% of them come twice. They are sent when they are due, however long
the others take. Afterwards who owns what is compared with what was sent.
"""

import hmac
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop
from finalbell.v1 import payment_pb2

from bench.local import Stack, show, stack
from bench.measure import arguments, build_load, keep, load
from ops.client import client
from ops.home import Home

UNITS = ("payments", "envoy", "postgres", "load")
AMOUNT = 2_500
NEIGHBOURS = 200
"""Events change places with one of so many that come next."""

REFUNDED, DISPUTED = 0.2, 0.05
HOOK = "/api/v1/payments/webhook/sandbox"


class Shop:
    """Orders that are open, and what the gateway tells of them."""

    def __init__(self, secret: str, seed: int) -> None:
        self.secret = secret.encode()
        self.chance = random.Random(seed)  # noqa: S311
        self.kept: set[str] = set()
        """The students who own it in the end."""

    def told(self, orders: Sequence[tuple[UUID, str]]) -> Iterator[dict[str, Any]]:
        """Give the events of all orders, in the order in which they happened."""
        for order, student in orders:
            at, fate = int(time.time() * 1000), self.chance.random()
            kinds = ["payment.succeeded"]
            if fate < REFUNDED:
                kinds.append("refund.succeeded")
            elif fate < REFUNDED + DISPUTED:
                kinds += ["dispute.opened", "dispute.won"]
            if fate >= REFUNDED:
                self.kept.add(student)
            checkout = {"id": f"co_{order}", "order": str(order), "student": student, "amount": AMOUNT, "currency": "USD"}
            for kind in kinds:
                about = kind.partition(".")[0]
                yield {
                    **{"id": f"evt_{kind}_{order}", "kind": kind, "created_ms": at, "live": False},
                    **{"subject": {"id": f"{about}_{order}", "amount": AMOUNT}, "checkout": checkout},
                }

    def shuffled(self, events: list[dict[str, Any]], replays: float) -> list[str]:
        """Replay some, and let each change places with a neighbour."""
        sent = [json.dumps(event) for event in events for _ in range(1 + (self.chance.random() < replays))]
        for place in range(len(sent)):
            other = min(len(sent) - 1, place + self.chance.randrange(NEIGHBOURS))
            sent[place], sent[other] = sent[other], sent[place]
        return sent

    def signed(self, bodies: Sequence[str], rate: float) -> Iterator[str]:
        """Give lines for the load tool: messages, each signed as of when it is due."""
        began = time.time()
        for number, body in enumerate(bodies):
            due = str(int(began + number / rate))
            signature = f"t={due},v1={hmac.digest(self.secret, f'{due}.{body}'.encode(), 'sha256').hex()}"
            yield json.dumps({"signature": signature, "body": body}) + "\n"


async def ordered(place: Stack, count: int) -> list[tuple[UUID, str]]:
    """Have so many students order one product, as the payment service writes it."""
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        rows = await connection.fetch(
            """
            INSERT INTO payment (student_id, product_id, provider, amount, currency, list_amount, live, gateway_ref, expires_at)
            SELECT 'w' || n, 'busy', 'sandbox', $2, 'USD', $2, false, NULL, now() + interval '1 day' FROM generate_series(1, $1) n
            RETURNING id, student_id
            """,
            *(count, AMOUNT),
        )
    finally:
        await connection.close()
    return [(row["id"], row["student_id"]) for row in rows]


async def wrong(place: Stack, shop: Shop, orders: int) -> list[str]:
    """Compare who owns the product with what was sent, and look for whatever was granted more than once."""
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        owners = await connection.fetch("SELECT student_id FROM entitlement WHERE product_id = 'busy' AND revoked_at IS NULL")
        twice = await connection.fetchval(
            "SELECT count(*) FROM (SELECT FROM entitlement_entry WHERE granted GROUP BY source HAVING count(*) > 2) AS t"
        )
        strange = await connection.fetchval("SELECT count(*) FROM webhook_event WHERE outcome <> 'APPLIED'")
    finally:
        await connection.close()
    differ = len({row["student_id"] for row in owners} ^ shop.kept)
    found = {f"of {orders} students own what they should not, or not what they should": differ}
    found |= {"orders were granted again and again": twice, "events were not applied": strange}
    return [f"{count} {what}" for what, count in found.items() if count]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=500, help="webhooks per second")
    parser.add_argument("--replays", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a smoke: figures mean nothing")
    given = parser.parse_args()
    count, rate = (200, 100.0) if given.short else (given.orders, given.rate)
    build_load()
    with stack() as place, tempfile.TemporaryDirectory() as scratch:
        home = Home(place.home)
        with client(place.home, None, None) as admin:
            product = payment_pb2.ImportProductsRequest.ProductDefinition(
                product_id="busy", title="Busy", amount=AMOUNT, currency="USD"
            )
            admin.import_products(payment_pb2.ImportProductsRequest(products=[product]))
        shop = Shop(json.loads(home.payments.read_text())["sandbox"]["webhookSecrets"][0], given.seed)
        orders = uvloop.run(ordered(place, count))
        bodies = shop.shuffled(list(shop.told(orders)), given.replays)
        messages = Path(scratch) / "messages.jsonl"
        with messages.open("w") as lines:
            lines.writelines(shop.signed(bodies, rate))
        address = place.read()["gateway"].removeprefix("http://")
        run = load("hook", address, messages, seconds=len(bodies) / rate, rate=rate, warm=0, path=HOOK, place=place)
        problems = uvloop.run(wrong(place, shop, count))
    if run.saved != len(bodies):
        problems.append(f"{len(bodies) - run.saved} of {len(bodies)} webhooks were never taken")
    show(
        f"{len(bodies):,} webhooks about {count:,} orders, {rate:.0f} due in a second",
        [
            ("taken", f"{run.per_second:,.0f}/s; sent again: {run.repeated}; refused: {dict(run.refused) or 0}"),
            ("p50, p99, longest, from when each was due", f"{run.p50_ms:.1f}, {run.p99_ms:.1f}, {run.max_ms:.1f} ms"),
            *((f"CPU a webhook: {unit}", f"{run.cpu_us[unit]:,.0f} µs") for unit in UNITS),
            ("differences from what was sent", problems or 0),
        ],
    )
    figures = {"webhooks": len(bodies), "orders": count, **asdict(run), "problems": problems}
    print(f"\n{keep(given.results, 'webhooks', figures)}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
