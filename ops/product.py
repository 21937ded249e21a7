"""`finalbell product …`: what is sold."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.money import shown

if TYPE_CHECKING:
    from finalbell.v1 import payment_pb2

    from ops.admin import Admin

app = typer.Typer(help="Import and list what is sold.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Products and coupons as JSON (docs/payments.md).")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Keep products and coupons as a file has them, all or nothing; others stay as they are.

    Warns of what a product opens and is not there yet: it may come later, or be misspelt, and then it is open to everybody.
    """
    from finalbell.v1 import payment_pb2
    from google.protobuf.json_format import Parse, ParseError

    try:
        request = Parse(file.read_text(), payment_pb2.ImportProductsRequest())
    except OSError as failure:
        typer.echo(f"{file} cannot be read: {failure.strerror}", err=True)
        raise typer.Exit(1) from None
    except (ParseError, UnicodeDecodeError) as wrong:
        typer.echo(f"{file}: {wrong}", err=True)
        raise typer.Exit(1) from None
    with client(home, server, token) as admin:
        kept = admin.import_products(request)
        typer.echo(f"Products: {kept.products}, coupons: {kept.coupons}. They are as {file.name} has them now.")
        for kind, name in _absent(request, admin):
            typer.echo(f"There is no {kind} {name} yet: is the name right?", err=True)


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List what can be bought."""
    with client(home, server, token) as admin:
        found = admin.products()
    if as_json:
        print_json(found)
        return
    from ops.table import show

    rows = []
    for one in found.products:
        opens = " ".join(f"{type(one).Opens.Kind.Name(thing.kind).lower()}:{thing.id}" for thing in one.opens)
        days = f"{one.validity_days} days" if one.HasField("validity_days") else "ever"
        rows.append([one.product_id, one.title, shown(one.amount, one.currency), days, " ".join(one.parts), opens])
    show(("product", "title", "price", "owned for", "parts", "opens"), rows)


def _absent(request: "payment_pb2.ImportProductsRequest", admin: "Admin") -> Iterator[tuple[str, str]]:
    """Yield the kind and name of what products open and is not there, each once."""
    exams, banks, lectures = admin.reports().reports, admin.banks().banks, admin.lectures("").lectures
    there = {("exam", one.exam.exam_id) for one in exams} | {("bank", one.bank_id) for one in banks}
    there |= {("lecture", one.lecture_id) for one in lectures}
    opened: dict[tuple[str, str], None] = {}
    for product in request.products:
        opened |= dict.fromkeys(("exam", name) for name in product.exams)
        opened |= dict.fromkeys(("bank", name) for name in product.banks)
        opened |= dict.fromkeys(("lecture", name) for name in product.lectures)
    yield from (one for one in opened if one not in there)
