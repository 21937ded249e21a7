"""Prints rows for people; for pipes too, one row a line, never wrapped."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: cells are texts as they are, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if terminal else 1000).print(table)


def inert(cell: str) -> str:
    """Keep a spreadsheet from running a cell: students choose their aliases, and '=' begins a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" and not cell.lstrip("-").isdigit() else cell


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Give what shows how far something is, on a terminal alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = Console(stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
