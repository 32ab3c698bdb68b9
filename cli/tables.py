# SPDX-License-Identifier: Apache-2.0
"""Tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def show(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), error: bool = False) -> None:
    """Print a table.

    Args:
        head: column titles.
        rows: cells, one sequence a row.
        numbers: indices of the columns that hold numbers, which are set flush right.
        error: print on stderr instead of stdout.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(head):
        table.add_column(title, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stderr if error else sys.stdout, markup=False, highlight=False).print(table)
