"""Prints rows for people; for pipes too, one row a line, never wrapped or cut."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

ENDLESS = 100_000


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: cells are texts as they are, never markup. On a terminal that is too narrow for its words a row is a block of
    lines: an id that was cut cannot be copied."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False)
    for at, name in enumerate(head):
        prose = any(" " in row[at] for row in rows)
        table.add_column(name, no_wrap=not (terminal and prose), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if terminal else ENDLESS)
    if rows and Measurement.get(console, console.options.update_width(ENDLESS), table).minimum > console.width:
        table = Table.grid(padding=(0, 2), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for at, row in enumerate(rows):
            if at:
                table.add_row()
            for name, cell in zip(head, row, strict=True):
                if cell:
                    table.add_row(Text(name), Text(cell))
    console.print(table)


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
