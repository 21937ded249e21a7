"""Orders and events as protobuf messages."""

from finalbell.v1 import payment_pb2 as pb

from servers.messages import timestamp
from stores.ledger import KeptEvent
from stores.money import Order, OrderStatus


def payment_message(order: Order) -> pb.Payment:
    """Return an order; where it is paid only while it can be."""
    is_open = order.status is OrderStatus.OPEN
    return pb.Payment(
        payment_id=str(order.id),
        product_id=order.product,
        provider=order.provider if order.amount else "",
        amount=order.amount,
        currency=order.currency,
        status=pb.Payment.Status.Value(order.status),
        url=(order.url or "") if is_open else "",
        client_secret=(order.secret or "") if is_open else "",
        expires_at=timestamp(order.expires_ms),
    )


def event_message(event: KeptEvent) -> pb.PaymentEvent:
    """Return a gateway's message, without its body."""
    return pb.PaymentEvent(
        provider=event.provider,
        event_id=event.id,
        kind=event.kind,
        outcome=event.outcome,
        why=event.why,
        received_at=timestamp(event.received_ms),
        payment_id=str(event.order or ""),
    )
