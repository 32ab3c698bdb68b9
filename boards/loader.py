# SPDX-License-Identifier: Apache-2.0
"""Accelerator configurations from YAML, validated where they enter.

A preset is a file in ``boards/accelerators/``; its name is the file's name. Any other YAML file with the same
parameters serves as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ConfigError

_PRESETS = Path(__file__).parent / "accelerators"
_SUFFIXES = (".yaml", ".yml")


class AcceleratorFile(BaseModel):
    """The parameters that an accelerator file must hold, no more and no fewer.

    :class:`~catenary.isa.config.AcceleratorConfig` documents them and checks how they go together.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    port_bytes: list[int]
    memory_bytes: int
    chains: int
    chain_length: int
    mm_tokens: int
    packed: bool
    stream_atom: int
    stream_bytes: int
    vector_words: int
    vector_lanes: int
    act_bytes: int
    desc_words: int
    instruction_words: int
    queue_depth: int


def accelerator_names() -> tuple[str, ...]:
    """Names of the presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yaml")))


def load_accelerator(name_or_path: str | Path) -> AcceleratorConfig:
    """The configuration that ``name_or_path`` names.

    Args:
        name_or_path: a preset's name, or the path of a ``.yaml`` or ``.yml`` file.

    Raises:
        ConfigError: there is no such preset or file, it is not YAML, or a parameter is missing, unknown, of the wrong
            type or out of range.
    """
    path = Path(name_or_path)
    if path.suffix not in _SUFFIXES:
        names = accelerator_names()
        if str(name_or_path) not in names:
            known = ", ".join(names)
            raise ConfigError(f"Accelerator must be one of {known} or a .yaml file, not {str(name_or_path)!r}")
        path = _PRESETS / f"{name_or_path}.yaml"
    values = _read(path)
    try:
        checked = AcceleratorFile.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "contents"
        raise ConfigError(f"Accelerator file {path} must be sound, not with this in {where}: {fault['msg']}") from error
    try:
        return AcceleratorConfig.from_dict(checked.model_dump())
    except ConfigError as error:
        raise ConfigError(f"Accelerator file {path}: {error}") from error


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"Accelerator file must be a readable text file, not {str(path)!r} ({reason})") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"Accelerator file {path} must be YAML, not: {' '.join(str(error).split())}") from error
