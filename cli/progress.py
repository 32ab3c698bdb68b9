# SPDX-License-Identifier: Apache-2.0
"""Progress bars on stderr, for people only: nothing is shown where stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def _bars() -> Progress:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A bar for work that reports ``(name of what is being done, share of it that is done)``."""
    with _bars() as bars:
        task = bars.add_task("starting", total=1.0)

        def show(stage: str, fraction: float) -> None:
            bars.update(task, description=stage, completed=fraction)

        yield show


@contextmanager
def counted(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` steps (``None``: nobody knows how many); call with the number of steps done so far."""
    with _bars() as bars:
        task = bars.add_task(title, total=total)

        def show(done: int) -> None:
            bars.update(task, completed=done)

        yield show
