"""`finalbell product …`: what is sold."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json

app = typer.Typer(help="Import and list what is sold.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Products and coupons as JSON (docs/payments.md).")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Keep products and coupons as a file has them, all or nothing; others stay as they are."""
    from finalbell.v1 import payment_pb2
    from google.protobuf.json_format import Parse, ParseError

    try:
        request = Parse(file.read_text(), payment_pb2.ImportProductsRequest())
    except (OSError, UnicodeDecodeError) as failure:
        raise typer.BadParameter(f"{file} cannot be read: {failure}") from failure
    except ParseError as wrong:
        typer.echo(f"{file}: {wrong}", err=True)
        raise typer.Exit(1) from None
    with client(home, server, token) as admin:
        kept = admin.import_products(request)
    typer.echo(f"{kept.products} products and {kept.coupons} coupons are as {file.name} has them.")


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
        days = f"{one.validity_days} days" if one.HasField("validity_days") else "for good"
        rows.append([one.product_id, one.title, money(one.amount, one.currency), days, " ".join(one.parts), opens])
    show(("product", "title", "price in minor units", "owned", "parts", "opens"), rows)


def money(amount: int, currency: str) -> str:
    """Write an amount as the API has it, in minor units: how many of them make one depends on the currency."""
    return f"{amount} {currency}"
