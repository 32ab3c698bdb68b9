# SPDX-License-Identifier: Apache-2.0
"""Progress bars on stderr, for people only: nothing is shown where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def _bar(title: str, total: float | None) -> Iterator[Callable[[str, float], None]]:
    """A bar that vanishes at the end; call it with a title and the amount done."""
    if not sys.stderr.isatty():
        yield lambda title, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield lambda title, done: bars.update(task, description=title, completed=done)


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A bar for work that reports ``(name of what is being done, share of it that is done)``."""
    with _bar("starting", 1.0) as show:
        yield show


@contextmanager
def counted(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` steps (``None``: nobody knows how many); call with the number of steps done so far."""
    with _bar(title, total) as show:
        yield lambda done: show(title, done)
