"""The `finalbell` command: one file per noun, put together here.

These files import what is slow (gRPC, drivers, cryptography) inside the commands, so that `--help` is quick.
"""

import typer

from ops import (
    bank,
    exam,
    grading,
    integrity,
    leaderboard,
    lecture,
    payments,
    product,
    receipt,
    scoring,
    series,
    session,
    stack,
    tokens,
)
from ops.audit.command import audit
from ops.rehearse.command import rehearse

app = typer.Typer(help="Run and operate finalbell.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (stack.up, stack.down, stack.status, stack.logs, stack.doctor, tokens.token, rehearse, audit):
    app.command()(command)
app.add_typer(exam.app, name="exam")
app.add_typer(bank.app, name="bank")
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(lecture.app, name="lecture")
app.add_typer(series.app, name="series")
app.add_typer(session.app, name="session")
app.add_typer(scoring.app, name="scoring")
app.add_typer(grading.app, name="grading")
app.add_typer(product.app, name="product")
app.add_typer(payments.app, name="payments")
app.add_typer(receipt.app, name="receipt")
app.add_typer(integrity.app, name="integrity")

if __name__ == "__main__":
    app()
