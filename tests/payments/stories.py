"""Purchases by the thousand through one provider, whose messages are lost, doubled, reordered, late and forged; then one pass of
the reconciler. What is owned in the end must be what the gateway's own books say.

    python -m tests.payments.stories --provider stripe --purchases 10000 --seed 1

The ledger is the real one; the fold that it is compared with is written here, in other words than the product's rules.
"""

import argparse
import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog

from servers.payments.inbox import Inbox, end
from servers.payments.provider import Forged, GatewayAway, GatewayRefused, Said
from servers.payments.reconciler import Reconciler
from stores.ledger import Ledger, NotOrdered, Superseded, Wanted
from stores.money import Order, OrderStatus, Product
from tests.payments.books import as_payments, ledger_in
from tests.payments.gateways import Act, Call, Gateway, Truth
from tests.payments.simulated import GATEWAYS
from tests.stack import Stack, fresh, running

T = TypeVar("T")

TRIES = 5
TOGETHER = 16
"""Purchases at once."""

VALID_SECONDS = 3_600.0
LATE_MS = 301_000
LONGER_MS = 3_600_000
"""Gateways take money for so long after an order's time is over."""

FIRST = {
    (Act.PAY,): 70,
    (Act.PAY_LATER,): 6,
    (Act.DECLINE, Act.PAY): 6,
    (Act.FAIL,): 6,
    (Act.EXPIRE,): 4,
    (Act.DECLINE,): 2,
    (): 6,
}
"""How purchases begin, and how often of a hundred."""

THEN = {
    (): 50,
    (Act.REFUND,): 18,
    (Act.REFUND, Act.REFUND): 6,
    (Act.DISPUTE,): 6,
    (Act.DISPUTE, Act.WIN): 6,
    (Act.DISPUTE, Act.LOSE): 6,
    (Act.REFUND, Act.DISPUTE, Act.WIN, Act.REFUND): 4,
    (Act.DISPUTE, Act.WIN, Act.DISPUTE, Act.LOSE): 4,
}
"""And how those that are paid go on."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a storm came to."""

    purchases: int
    seconds: float
    reconciled_seconds: float
    asked: int
    counted: Counter[str]
    violations: Sequence[str]

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counted.items()))
        first = f"{self.purchases} purchases in {self.seconds:.1f} s: {self.purchases / self.seconds:.0f}/s; "
        second = f"the reconciler asked after {self.asked} orders in {self.reconciled_seconds:.1f} s\n{counted}\n"
        return f"{first}{second}{len(self.violations)} violations\n" + "\n".join(self.violations[:20])


class Storm:
    """One provider's bad day. Everything in it has names of its own, so that a database may see several."""

    def __init__(self, pool: asyncpg.Pool, gateway: Gateway, seed: int) -> None:
        self.name = fresh("storm")
        self._pool = pool
        self._ledger: Ledger = ledger_in(pool)
        self._gateway = gateway
        self._provider = gateway.provider
        self._provider.name = f"{gateway.provider.name}.{self.name}"
        self._books = Inbox(self._ledger, self._provider.name)
        self._seed = seed
        self._chance = Random(seed)
        self._mail: list[Call] = []
        self._orders: dict[UUID, Order] = {}
        self._one_at_a_time: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.counted: Counter[str] = Counter()
        self.violations: list[str] = []
        gateway.line = self._line

    # What is sold

    async def _stock(self) -> Sequence[Product]:
        amount = 2_500 if self._gateway.currency == "USD" else 1_500_000
        one, two, three = (
            Product(f"{self.name}-{what}", what, "", amount, self._gateway.currency, None, True, (), ()) for what in "abc"
        )
        three = replace(three, validity_days=30)
        both = replace(one, id=f"{self.name}-both", amount=amount * 2 - 1, parts=(one.id, two.id))
        every = replace(one, id=f"{self.name}-every", amount=amount * 3, parts=(both.id, three.id))
        self.contents = {
            one.id: {one.id},
            two.id: {two.id},
            three.id: {three.id},
            both.id: {both.id, one.id, two.id},
            every.id: {every.id, both.id, one.id, two.id, three.id},
        }
        await self._ledger.keep([one, two, three, both, every], [], "operator")
        return [one, two, three, both, every]

    # Purchases

    async def run(self, purchases: int) -> Report:
        """Let it all happen, reconcile, and compare."""
        products, began = await self._stock(), time.monotonic()
        reconciling = Reconciler(self._ledger, {self._provider.name: self._provider}, 30.0)
        room = asyncio.Semaphore(TOGETHER)

        async def one(number: int) -> None:
            async with room:
                await self._purchase(Random(f"{self._seed}/{number}"), purchases, products)
                if number == purchases // 2:  # two processes do so in the middle of the day
                    await asyncio.gather(*(reconciling.round(self._provider.name, all_orders=True) for _ in range(2)))

        await asyncio.gather(*(one(number) for number in range(purchases)))
        await self._post(len(self._mail))
        self._gateway.line = self._straight  # those that ask do so until they are answered
        await self._gateway.catch_up()
        seconds, began = time.monotonic() - began, time.monotonic()
        done = await reconciling.round(self._provider.name, all_orders=True)
        reconciled = time.monotonic() - began
        await self._compare()
        return Report(purchases, seconds, reconciled, done.asked, self.counted, self.violations)

    async def _purchase(self, chance: Random, purchases: int, products: Sequence[Product]) -> None:
        self._tick()
        student, product = f"{self.name}-{chance.randrange(purchases // 2 + 1)}", chance.choice(products)
        seconds = VALID_SECONDS if chance.random() < 0.9 else 0.2  # over soon, while the gateway still takes it
        wanted = Wanted(student, product.id, self._provider.name, False, "", None, seconds)
        order = await self._repeated(lambda: self._ledger.order(wanted, _price))
        if isinstance(order, Superseded):
            self.counted["ended for another"] += 1
            before = order.order
            await self._repeated(lambda: end(self._provider, self._books, before))
            order = await self._repeated(lambda: self._ledger.order(wanted, _price))
        if isinstance(order, Superseded):  # another tab's, and over too by now
            return
        if not isinstance(order, Order):
            self._expect(order is NotOrdered.OWNED, f"{student} could not order {product.id}: {order}")
            self.counted["owned already"] += 1
            return
        async with self._one_at_a_time[order.id]:
            order = self._orders[order.id] = await self._open(chance, order, product)
            paid = chance.choices(list(FIRST), list(FIRST.values()))[0]
            then = chance.choices(list(THEN), list(THEN.values()))[0]
            for act in (*paid, *(then if Act.PAY in paid or Act.PAY_LATER in paid else ())):
                amount = order.amount if self._gateway.asks or chance.random() < 0.5 else chance.randrange(1, order.amount)
                made = await self._gateway.act(act, order, amount) if act in self._gateway.can else None
                self.counted[f"{act.lower()}{'' if made is not None else ' (not possible)'}"] += 1
                if made and not self._gateway.asks:
                    self._send(chance, made)
                if chance.random() < 0.3:
                    await self._post(chance.randrange(4))
            if chance.random() < 0.1:
                await self._refund(chance, order)
        await self._post(chance.randrange(6))

    async def _open(self, chance: Random, order: Order, product: Product) -> Order:
        """Have the gateway take an order; sometimes we die before we have noted it, and do it again."""
        longer = replace(order, expires_ms=order.expires_ms + LONGER_MS)
        opened = await self._repeated(lambda: self._provider.open(longer, product))
        if chance.random() < 0.1:
            self.counted["opened again"] += 1
            again = await self._repeated(lambda: self._provider.open(longer, product))
            self._expect(again == opened, f"I20: {order.id} was opened twice")
        if chance.random() < 0.03:  # and nobody comes back
            self.counted["never noted"] += 1
            return order
        noted = await self._ledger.opened(order.id, opened.ref, opened.url, opened.secret)
        return noted or order

    async def _refund(self, chance: Random, order: Order) -> None:
        """Give all or a part back by our own call; what the gateway sends of it is lost."""
        amount = chance.choice([order.amount, order.amount // 3])
        try:
            for _ in range(chance.choice([1, 2])):
                await self._repeated(lambda: self._provider.refund(order, amount, f"{order.id}-key"))
            self.counted["our refund"] += 1
        except GatewayRefused:
            self.counted["our refund (refused)"] += 1

    async def _repeated(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Do what whoever is told that a gateway or a store does not answer does: ask again, for the same."""
        for _ in range(TRIES):
            try:
                return await ask()
            except (GatewayAway, TimeoutError) as failure:
                self.counted[f"again after {type(failure).__name__}"] += 1
        return await ask()

    def _tick(self) -> None:
        account = getattr(self._gateway, "account", None)
        if account is not None:
            account.clock = int(time.time())

    # The mail of gateways that tell

    def _send(self, chance: Random, calls: Sequence[Call]) -> None:
        for call in calls:
            copies = chance.choices([0, 1, 2, 4], [15, 60, 20, 5])[0]
            self.counted[("lost", "told once", "doubled")[min(copies, 2)]] += 1
            self._mail += [call] * copies

    async def _post(self, count: int) -> None:
        """Deliver so many letters, whichever, at most so many at a time."""
        self._chance.shuffle(self._mail)
        letters = [self._mail.pop() for _ in range(min(count, len(self._mail)))]
        for start in range(0, len(letters), TOGETHER):
            await asyncio.gather(*map(self._deliver, letters[start : start + TOGETHER]))

    async def _deliver(self, call: Call) -> None:
        if self._chance.random() < 0.15:
            await self._forge(call)
        await self._provider.hear(self._gateway.sign(call, self._gateway.now_ms()), self._books)

    async def _forge(self, call: Call) -> None:
        """Send the same thing in other ways: by somebody else, by nobody, or of another time."""
        now_ms = self._gateway.now_ms()
        genuine = self._gateway.sign(call, now_ms)
        forgeries = [self._gateway.sign(call, now_ms, stranger=True), self._gateway.unsigned(call)]
        if self._gateway.signs_time:
            forgeries += [replace(genuine, now_ms=genuine.now_ms + away) for away in (LATE_MS, -LATE_MS)]
        self.counted["forged"] += 1
        try:
            said = await self._provider.hear(self._chance.choice(forgeries), self._books)
        except Forged:
            return
        self._expect(self._gateway.asks and self._gateway.refused(said), "a forged call was believed")

    # The line of those that ask

    async def _straight(self, call: Call) -> Said:
        return await self._provider.hear(self._gateway.sign(call, self._gateway.now_ms()), self._books)

    async def _line(self, call: Call) -> Said | None:
        fate = self._chance.choices(["through", "lost", "answer lost", "doubled"], [64, 12, 12, 12])[0]
        self.counted[fate] += 1
        if fate == "lost":
            return None
        if self._chance.random() < 0.1:
            await self._forge(call)
        copies = 3 if fate == "doubled" else 1
        heard = self._gateway.sign(call, self._gateway.now_ms())
        said = await asyncio.gather(*(self._provider.hear(heard, self._books) for _ in range(copies)))
        good = [one for one in said if not self._gateway.refused(one)]
        return None if fate == "answer lost" else (good or said)[0]

    # What it came to

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(otherwise)

    async def _compare(self) -> None:
        kept = {
            row["id"]: row
            for row in await self._pool.fetch(
                "SELECT id, student_id, product_id, status, refunded FROM payment WHERE provider = $1", self._provider.name
            )
        }
        self._expect(kept.keys() == self._orders.keys(), "orders are missing")
        owners: defaultdict[str, set[str]] = defaultdict(set)
        for order in self._orders.values():
            truth, row = self._gateway.truth(order), kept[order.id]
            self.counted[f"came to {truth.status}"] += 1
            if truth.status is OrderStatus.PAID:
                owners[order.student] |= self.contents[order.product]
            came = Truth(OrderStatus(row["status"]), row["refunded"])
            same = came.agrees(truth) if self._gateway.asks else came == truth
            self._expect(same, f"{order.id}: {dict(row)} and the gateway says {truth}")
            self._expect(self._gateway.known(order) <= 1, f"I20: {order.id} is there twice")
        owned: defaultdict[str, set[str]] = defaultdict(set)
        for row in await self._pool.fetch(
            "SELECT student_id, product_id FROM entitlement WHERE product_id LIKE $1 || '-%' AND revoked_at IS NULL", self.name
        ):
            owned[row["student_id"]].add(row["product_id"])
        for student in owners.keys() | owned.keys():
            self._expect(
                owners[student] == owned[student],
                f"{student} owns {sorted(owned[student])}, and paid for {sorted(owners[student])}",
            )
        drift = await self._ledger.drift(86_400)
        self.violations += [f"drift: {line}" for line in drift.lines if line.provider == self._provider.name]
        for name, query in INVARIANTS.items():
            self.violations += [f"{name}: {dict(row)}" for row in await self._pool.fetch(query, self._provider.name)]


def _price(product: Product, *_: object) -> int:
    return product.amount


INVARIANTS = {
    "I18, one effect": """
        SELECT * FROM (
          SELECT l.*, lag(granted) OVER (PARTITION BY l.student_id, l.product_id, source ORDER BY l.id) AS before
          FROM entitlement_entry l JOIN payment p ON l.source = 'payment:' || p.id WHERE p.provider = $1
        ) AS said WHERE granted = before""",
    "I18, nothing quarantined of what was not forged": """
        SELECT event_id, why FROM webhook_event e JOIN payment p ON p.id = e.payment_id
        WHERE e.provider = $1 AND e.outcome = 'QUARANTINED'""",
    "I19, owned and not paid": """
        SELECT e.student_id, e.product_id FROM entitlement e
        WHERE e.revoked_at IS NULL AND e.student_id IN (SELECT student_id FROM payment WHERE provider = $1) AND NOT EXISTS (
          SELECT FROM entitlement_entry l JOIN payment p ON l.source = 'payment:' || p.id
            JOIN payment_fact f ON f.payment_id = p.id AND f.kind = 'PAID' AND f.amount = p.amount
          WHERE (l.student_id, l.product_id) = (e.student_id, e.product_id) AND p.student_id = e.student_id AND p.status = 'PAID'
            AND (SELECT coalesce(sum(amount), 0) FROM payment_fact b WHERE b.payment_id = p.id AND b.kind = 'REFUNDED') < p.amount
            AND NOT EXISTS (SELECT FROM payment_fact b WHERE b.payment_id = p.id AND b.kind = 'DISPUTE_LOST')
            AND NOT EXISTS (
              SELECT FROM payment_fact b WHERE b.payment_id = p.id AND b.kind = 'DISPUTE_OPENED' AND NOT EXISTS (
                SELECT FROM payment_fact w WHERE (w.payment_id, w.kind, w.ref) = (b.payment_id, 'DISPUTE_WON', b.ref)))
        )""",
    "I20, paid twice": """
        SELECT p.id, count(*) FROM payment p JOIN payment_fact f ON f.payment_id = p.id AND f.kind = 'PAID'
        WHERE p.provider = $1 GROUP BY p.id HAVING count(*) > 1""",
    "I20, open twice": """
        SELECT student_id, product_id, count(*) FROM payment WHERE provider = $1 AND status = 'OPEN'
        GROUP BY student_id, product_id HAVING count(*) > 1""",
    "I21, paid and not owned": """
        SELECT p.id, p.status FROM payment p
        WHERE p.provider = $1 AND p.status = 'PAID' AND NOT EXISTS (
          SELECT FROM entitlement e
          WHERE (e.student_id, e.product_id) = (p.student_id, p.product_id) AND e.revoked_at IS NULL)""",
}
"""Queries by provider that must find nothing."""


async def storm(pool: asyncpg.Pool, provider: str, purchases: int, seed: int) -> Report:
    """Let one provider have its bad day."""
    async with GATEWAYS[provider](pool) as gateway:
        return await Storm(pool, gateway, seed).run(purchases)


async def _main(stack: Stack, provider: str, purchases: int, seed: int) -> Report:
    async with as_payments(stack) as pool:
        return await storm(pool, provider, purchases, seed)


def main() -> None:
    """Run one storm, on a stack of its own unless one is named."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--provider", choices=sorted(GATEWAYS), required=True)
    asked.add_argument("--purchases", type=int, default=10_000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--home", type=Path)
    told = asked.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # others' orders, by the thousand
    with nullcontext(Stack(told.home)) if told.home else running() as stack:
        report = asyncio.run(_main(stack, told.provider, told.purchases, told.seed))
    print(report)
    raise SystemExit(bool(report.violations))


if __name__ == "__main__":
    main()
