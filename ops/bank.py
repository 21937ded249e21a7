"""`finalbell bank …`: import banks of practice questions and look after them."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.exam import read

app = typer.Typer(help="Import, list and remove banks of practice questions.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
COLUMNS = ("bank", "title", "version", "questions", "topics", "opened by")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files of banks (docs/exam-files.md).")],
    bank_id: Annotated[str, typer.Option("--id", help="Take this bank id instead of the file's; one file only.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Import banks, each all or nothing; importing one again changes nothing, another file under its id replaces it."""
    if bank_id and len(files) > 1:
        raise typer.BadParameter("--id goes with one file")
    with client(home, server, token) as admin:
        for file in files:
            reply = admin.import_bank(read(file), bank_id)
            if as_json:
                print_json(reply)
                continue
            bank = reply.bank
            what = f"{bank.question_count} questions, open to {'whoever owns ' if bank.product_ids else 'everybody'}"
            what += " or ".join(bank.product_ids)
            typer.echo(f"{bank.bank_id} (version {bank.version}): {what if reply.changed else 'nothing changed'}")


@app.command("list")
def list_banks(
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List every bank with its topics, and the products that open it."""
    with client(home, server, token) as admin:
        found = admin.banks()
    if as_json:
        print_json(found)
        return
    from ops.admin import bank_row
    from ops.table import show

    show(COLUMNS, [bank_row(bank) for bank in found.banks])


@app.command()
def delete(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="The bank's id.")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Remove a bank with its questions; nobody's exam changes."""
    with client(home, server, token) as admin:
        admin.delete_bank(bank)
    typer.echo(f"{bank}: deleted.")
