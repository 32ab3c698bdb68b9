# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints to damage, and a check of what the importer says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catenary.compiler import importers
from catenary.compiler.importers.safetensors_files import read_header
from catenary.compiler.random_models import write_safetensors
from catenary.isa.errors import CheckpointError
from catenary.isa.tensors import FloatFormat, FloatTensor


def refused(directory: Path, message: str, kind: type[Exception] = CheckpointError, **options) -> None:
    """``load`` raises exactly ``kind`` with exactly ``message``, where ``{dir}`` stands for the directory."""
    wanted = message.replace("{dir}", str(directory))
    with pytest.raises(kind, match=f"^{re.escape(wanted)}$") as caught:
        importers.load(directory, **options)
    assert caught.type is kind


def tensors_of(directory: Path) -> dict[str, FloatTensor]:
    """Copies of all tensors of a checkpoint in one F32 file."""
    data = (directory / "model.safetensors").read_bytes()
    return {
        name: FloatTensor(FloatFormat.F32, np.frombuffer(data[e.start : e.stop], "<f4").reshape(e.shape).copy())
        for name, e in read_header(directory / "model.safetensors").items()
    }


def edit_tensors(directory: Path, change: Callable[[dict[str, FloatTensor]], object]) -> None:
    """Write the weights of a checkpoint in one F32 file again, after ``change``."""
    tensors = tensors_of(directory)
    change(tensors)
    write_safetensors(directory / "model.safetensors", tensors)


def header_of(path: Path) -> tuple[dict, bytes]:
    """Parsed header of a safetensors file, and the bytes behind it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def edit_header(directory: Path, change: Callable[[dict], object]) -> None:
    """Change the header of the weight file, and nothing behind it."""
    path = directory / "model.safetensors"
    header, data = header_of(path)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_json(directory: Path, name: str, **values) -> None:
    """Set ``values`` in a JSON file, which need not exist."""
    path = directory / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values))
