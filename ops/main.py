"""The `finalbell` command: one file per noun, put together here."""

import typer

from ops import exam, keys, leaderboard, stack

app = typer.Typer(help="Run and operate finalbell.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (stack.up, stack.down, stack.status, stack.logs, stack.doctor, keys.token):
    app.command()(command)
app.add_typer(exam.app, name="exam")
app.add_typer(leaderboard.app, name="leaderboard")

if __name__ == "__main__":
    app()
