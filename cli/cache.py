# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, kept so that running a model on a device compiles it only once.

The cache is ``$XDG_CACHE_HOME/catenary`` (``~/.cache/catenary``). A file's name is a hash of everything that the
program depends on, so an entry never goes stale; deleting the folder is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import catenary
from catenary import compiler, isa
from catenary.compiler import CompileOptions, compile_model
from catenary.compiler.importers import ImportedModel
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.graph_json import to_json
from catenary.isa.program import Program


def cache_folder() -> Path:
    """Where programs are kept; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "catenary"


def cache_key(model: ImportedModel, config: AcceleratorConfig, options: CompileOptions) -> str:
    """Hash of the checkpoint's contents, the configuration, the options and the compiler itself."""
    digest = hashlib.sha256()
    parts = (
        catenary.__version__,
        _source_hash(),
        json.dumps(to_json(model.graph), sort_keys=True),
        json.dumps(dict(model.provenance), sort_keys=True),
        json.dumps(dict(model.tokenizer_config), sort_keys=True),
        model.tokenizer_json or "",
        json.dumps(config.to_dict(), sort_keys=True),
        repr(options),
    )
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


def cached_program(
    model: ImportedModel,
    config: AcceleratorConfig,
    options: CompileOptions,
    progress: Callable[[str, float], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Program:
    """The program of ``model``, from the cache or compiled now and put there.

    A damaged entry is compiled again. A cache that cannot be written costs time, not the result.

    Args:
        model: to compile.
        config: the accelerator to compile for.
        options: how to compile.
        progress: told of the compilation's stages.
        warn: told, in one line, of a damaged entry or a cache that cannot be written.

    Raises:
        CompileError: the model does not fit the accelerator or the options.
    """
    path = cache_folder() / f"{cache_key(model, config, options)}.cat"
    if path.exists():
        try:
            return Program.load(path)
        except ProgramError as error:
            if warn is not None:
                warn(f"compiling again, since the cached program is damaged: {error}")
    program = compile_model(model, config, options, progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
    except (OSError, ProgramError) as error:
        if warn is not None:
            warn(f"program not cached: {error}")
    return program


def _source_hash() -> str:
    """Hash of the code that makes programs, which changes more often than the version does."""
    digest = hashlib.sha256()
    for package in (isa, compiler):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()
