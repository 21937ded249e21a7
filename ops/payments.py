"""`finalbell payments …`: what has become of money, and how it is mended."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.money import shown

if TYPE_CHECKING:
    from finalbell.v1 import payment_pb2

app = typer.Typer(help="Look after orders: what was paid, granted, refunded.", no_args_is_help=True)
StudentArgument = Annotated[str, typer.Argument(metavar="STUDENT")]
ProductArgument = Annotated[str, typer.Argument(metavar="PRODUCT")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="PAYMENT|STUDENT", help="An order's id, or a student's.")],
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show all that is known of an order, or list a student's."""
    with client(home, server, token) as admin:
        if _is_id(what):
            record = admin.payment_record(what)
            print_json(record) if as_json else _print_record(record)
        else:
            orders = admin.payments(what)
            print_json(orders) if as_json else _print_orders(orders)


@app.command()
def refund(
    payment: Annotated[UUID, typer.Argument(metavar="PAYMENT", help="The order's id.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes on record.")],
    amount: Annotated[
        int | None, typer.Option("--amount", min=1, help="How much, in minor units (500: 5.00 USD); else all that is left.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Repeat with the key of a call whose answer was lost.")] = "",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Give money back; what was bought is taken back once all of it is."""
    from uuid import uuid4

    key = key or str(uuid4())
    typer.echo(f"key {key}: repeat with --key if there is no answer", err=True)
    with client(home, server, token) as admin:
        paid = admin.refund(str(payment), reason, amount, key)
    some = f"; {shown(amount, paid.currency)} of it is given back" if amount else ""
    typer.echo(f"{payment}: {_status(paid)}{some}")


@app.command()
def grant(
    student: StudentArgument,
    product: ProductArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes on record.")],
    days: Annotated[int | None, typer.Option("--days", min=1, help="For how long; else for good.")] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Give a student a product with all its parts, without money."""
    with client(home, server, token) as admin:
        admin.grant(student, product, reason, days)
    typer.echo(f"{student} owns {product}{f' for {days} days' if days else ''}")


@app.command()
def revoke(
    student: StudentArgument,
    product: ProductArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes on record.")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Take back what `grant` gave; what is paid for stays until it is refunded."""
    with client(home, server, token) as admin:
        admin.revoke(student, product, reason)
    typer.echo(f"what was granted of {product} is taken back from {student}")


@app.command()
def reconcile(
    provider: Annotated[str, typer.Option("--provider", help="One gateway only.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Ask the gateways now what has become of open orders; exit code 1 when one does not answer."""
    with client(home, server, token) as admin:
        found = admin.reconcile(provider)
    if as_json:
        print_json(found)
    else:
        for one in found.rounds:
            silent = f", {one.silent} not answered" if one.silent else ""
            typer.echo(f"{one.provider}: {one.listed} events, {one.asked} open orders asked after, {one.applied} new{silent}.")
        for name in found.failed:
            typer.echo(f"{name}: does not answer.")
    if found.failed or any(one.silent for one in found.rounds):
        raise typer.Exit(1)


@app.command()
def drift(
    days: Annotated[int, typer.Option("--days", min=1, max=3660, help="How far back.")] = 30,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Compare what is paid with what is owned, by provider and day; exit code 1 when anything does not add up."""
    with client(home, server, token) as admin:
        found = admin.drift(days)
    if as_json:
        print_json(found)
    else:
        _print_drift(found)
    if found.lines or found.quarantined:
        raise typer.Exit(1)


def _print_orders(found: "payment_pb2.ListPaymentsResponse") -> None:
    from ops.table import show as table

    if not found.payments:
        typer.echo("There are no orders of that student.")
        return
    rows = [[one.payment_id, one.product_id, one.provider, shown(one.amount, one.currency), _status(one)] for one in found.payments]
    table(("payment", "product", "provider", "amount", "status"), rows)


def _print_drift(found: "payment_pb2.GetPaymentDriftResponse") -> None:
    from ops.table import show as table

    typer.echo(f"{found.orders} orders, {len(found.lines)} days with a drift, {len(found.quarantined)} events in quarantine.")
    if found.lines:
        rows = [
            [
                *(one.provider, one.day),
                f"{one.paid_not_granted} ({shown(one.paid_not_granted_amount, one.currency)})",
                f"{one.granted_not_paid} ({shown(one.granted_not_paid_amount, one.currency)})",
                " ".join(one.payments),
            ]
            for one in found.lines
        ]
        table(("provider", "day", "paid, not granted", "granted, not paid", "payments"), rows)
    if found.quarantined:
        rows = [
            [one.provider, one.event_id, one.kind, one.received_at.ToJsonString(), one.payment_id or "none of ours", one.why]
            for one in found.quarantined
        ]
        table(("provider", "event", "kind", "received", "payment", "why"), rows)


def _print_record(found: "payment_pb2.GetPaymentRecordResponse") -> None:
    from ops.table import show as table

    paid = found.payment
    cost, back = shown(paid.amount, paid.currency), shown(found.refunded, paid.currency)
    typer.echo(f"{paid.payment_id}: {_status(paid)}, {paid.product_id} for {found.student_id}, {cost}, {back} given back")
    if paid.provider:
        typer.echo(f"the gateway is {paid.provider}, which calls it {found.gateway_ref or 'nothing yet'}")
    if found.facts:
        facts = [[one.at.ToJsonString(), one.kind, shown(one.amount, paid.currency), one.ref] for one in found.facts]
        table(("at", "fact", "amount", "the gateway's name of it"), facts)
    if found.events:
        events = [[one.received_at.ToJsonString(), one.outcome, one.kind, one.event_id, one.why] for one in found.events]
        table(("received", "event", "kind", "id", "why"), events)
    if found.entries:
        entries = [
            [one.at.ToJsonString(), "granted" if one.granted else "taken back", one.product_id, one.reason] for one in found.entries
        ]
        table(("at", "entitlement", "product", "because"), entries)


def _status(payment: "payment_pb2.Payment") -> str:
    return type(payment).Status.Name(payment.status)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
