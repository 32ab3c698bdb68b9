# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in, float graphs out.

>>> from catenary.compiler import importers
>>> importers.load("path/to/model").graph.vocab  # doctest: +SKIP
512
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from catenary.compiler.importers.huggingface import inspect_directory, load_directory, load_dummy
from catenary.compiler.importers.model import ImportedModel, Summary
from catenary.isa.errors import CheckpointError

__all__ = ["ImportedModel", "Summary", "inspect", "load"]


def load(path: str | PathLike[str], *, max_context: int | None = None, dummy_seed: int | None = None) -> ImportedModel:
    """Import the checkpoint at ``path``.

    Args:
        path: a Hugging Face directory, or, with ``dummy_seed``, a ``config.json``.
        max_context: tokens to provide for; by default what the model was made for, at most 4,096.
        dummy_seed: make the weights up from this seed instead of reading any.

    Returns:
        the model. Its weights are memory-mapped in the checkpoint's own format, so importing takes little memory; all
        of them have been read once and are finite.

    Raises:
        CheckpointError: a file is missing or damaged, or disagrees with another.
        UnsupportedModelError: a sound model of a kind that has no lowering.
        UsageError: ``max_context`` is more than the model's, or ``dummy_seed`` is out of range.
    """
    where = Path(path)
    if dummy_seed is not None:
        if not where.is_file():
            raise CheckpointError(f"Model with dummy weights must be a config.json file, not {str(path)!r}")
        return load_dummy(where, max_context, dummy_seed)
    if not where.is_dir():
        raise CheckpointError(f"Model must be a Hugging Face directory, not {str(path)!r}{_hint(where)}")
    return load_directory(where, max_context)


def inspect(path: str | PathLike[str], *, max_context: int | None = None) -> Summary:
    """Say what is at ``path`` and whether it can be imported, without reading weight data.

    Args:
        path: a Hugging Face directory, or a ``config.json``.
        max_context: as for :func:`load`.

    Raises:
        CheckpointError: there is nothing at ``path``.
        UsageError: ``max_context`` is more than the model's.
    """
    where = Path(path)
    if not where.exists():
        wanted = "a Hugging Face directory or a config.json"
        raise CheckpointError(f"Model must be {wanted}, not {str(path)!r}{_hint(where)}")
    return inspect_directory(where, max_context)


def _hint(path: Path) -> str:
    if not path.exists():
        return " (no such file or directory)"
    return " (a config.json alone needs dummy weights)" if path.suffix == ".json" else ""
