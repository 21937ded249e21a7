"""Refunds by staff: once for each key, whatever became of the answer; and what cost nothing is taken back too."""

import pytest
from finalbell.v1 import payment_pb2 as pb

from servers import errors
from servers.auth import Caller
from servers.payments.admin import PaymentAdminService
from servers.payments.reconciler import Reconciler
from servers.serving.wrap import Call
from stores.ledger import Ledger, Wanted
from stores.money import Order, OrderStatus
from tests.payments.books import PRODUCT, Till
from tests.payments.desk import Desk
from tests.stack import fresh


class Office:
    """Staff, and a gateway that gives money back."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.desk = Desk("sandbox")
        self.till = Till(ledger, "sandbox", "USD", PRODUCT.amount)
        desks = {"sandbox": self.desk}
        self._service = PaymentAdminService(ledger, desks, Reconciler(ledger, desks, 30.0))

    async def refund(self, order: Order, key: str, amount: int | None = None) -> str:
        """Ask for a refund, and return the order's status after it."""
        request = pb.RefundPaymentRequest(payment_id=str(order.id), amount=amount, reason="a wish")
        reply = await self._service.RefundPayment(request, Call(Caller("ann", frozenset({"admin"}), ()), key, 0.0, {}))
        return pb.Payment.Status.Name(reply.payment.status)

    def given_back(self, order: Order) -> list[int]:
        """Return what the gateway has given back of an order."""
        return [amount for (of, _), amount in self.desk.refunds.items() if of == order.id]


@pytest.fixture
def office(ledger: Ledger) -> Office:
    return Office(ledger)


@pytest.mark.parametrize("amount", [None, PRODUCT.amount, PRODUCT.amount - 1])
async def test_a_refund_whose_answer_was_lost_is_answered_when_it_is_asked_again(office: Office, amount: int | None) -> None:
    order = await office.till.order(status=OrderStatus.PAID)
    office.desk.silent = True
    with pytest.raises(errors.GatewayUnavailable):
        await office.refund(order, "the same key", amount)
    await office.till.ledger.tell("sandbox", (await office.desk.look(order))[0])  # by its webhook
    office.desk.silent = False

    again = await office.refund(order, "the same key", amount)

    whole = amount in (None, PRODUCT.amount)
    assert again == ("REFUNDED" if whole else "PAID")
    assert office.given_back(order) == [amount or PRODUCT.amount]


async def test_a_key_that_asked_for_another_amount_is_reused(office: Office) -> None:
    order = await office.till.order(status=OrderStatus.PAID)
    await office.refund(order, "one key", 700)

    with pytest.raises(errors.IdempotencyKeyReused):
        await office.refund(order, "one key", 500)
    await office.refund(order, "another", 500)

    assert office.given_back(order) == [700, 500]


async def test_what_is_given_back_already_is_not_given_back_with_another_key(office: Office) -> None:
    order = await office.till.order(status=OrderStatus.PAID)
    await office.refund(order, "one key")

    with pytest.raises(errors.NotRefundable):
        await office.refund(order, "another")

    assert office.given_back(order) == [PRODUCT.amount]


async def test_what_a_coupon_made_free_is_taken_back_without_a_gateway(office: Office) -> None:
    student, product = fresh("s"), await office.till.product(PRODUCT.amount, "USD")
    wanted = Wanted(student, product.id, "sandbox", False, "", None, 3_600.0)
    order = await office.ledger.order(wanted, lambda *_: 0)
    assert isinstance(order, Order)

    came = [await office.refund(order, "the same key") for _ in range(2)]

    assert came == ["REFUNDED", "REFUNDED"]
    assert [one.revoked_ms is None for one in await office.ledger.owned(student)] == [False]
    assert office.given_back(order) == []
    assert [line for line in (await office.ledger.drift(3_600.0)).lines if str(order.id) in line.payments] == []
