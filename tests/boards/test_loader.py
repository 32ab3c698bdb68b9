# SPDX-License-Identifier: Apache-2.0
"""Accelerator files: presets load, anything unsound is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from catenary.boards.loader import AcceleratorFile, accelerator_names, load_accelerator
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ConfigError

PRESET = Path(__file__).resolve().parents[2] / "boards" / "accelerators" / "small.yaml"


def edited(folder: Path, **values: object) -> Path:
    """``small.yaml`` with other ``values``; ``None`` leaves one out."""
    contents = yaml.safe_load(PRESET.read_text()) | values
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in contents.items() if value is not None}))
    return path


def test_every_preset_loads_under_its_own_name() -> None:
    names = accelerator_names()
    assert "small" in names
    for name in names:
        assert load_accelerator(name).name == name


def test_presets_are_different_hardware() -> None:
    hashes = [load_accelerator(name).hash for name in accelerator_names()]
    assert len(set(hashes)) == len(hashes)


def test_the_schema_is_that_of_the_configuration() -> None:
    assert set(AcceleratorFile.model_fields) == set(load_accelerator("small").to_dict())


def test_a_file_is_as_good_as_a_preset(tmp_path: Path) -> None:
    loaded = load_accelerator(edited(tmp_path, name="mine", chains=4))
    assert isinstance(loaded, AcceleratorConfig)
    assert (loaded.name, loaded.chains) == ("mine", 4)
    assert load_accelerator(str(PRESET)) == load_accelerator("small")


def test_unknown_names_are_refused_with_those_there_are() -> None:
    known = ", ".join(accelerator_names())
    with pytest.raises(ConfigError, match=f"^Accelerator must be one of {known} or a .yaml file, not 'smal'$"):
        load_accelerator("smal")


@pytest.mark.parametrize("name", ["", "../accelerators/small", "small.yaml/../small"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^Accelerator must be one of"):
        load_accelerator(name)


BAD_VALUES = {
    "missing": ({"chains": None}, "in chains: Field required"),
    "unknown": ({"color": 3}, "in color: Extra inputs are not permitted"),
    "text": ({"chains": "8"}, "in chains: Input should be a valid integer"),
    "float": ({"chains": 8.0}, "in chains: Input should be a valid integer"),
    "truth": ({"chains": True}, "in chains: Input should be a valid integer"),
    "number-for-truth": ({"packed": 1}, "in packed: Input should be a valid boolean"),
    "port": ({"port_bytes": [8, "x"]}, "in port_bytes.1: Input should be a valid integer"),
    "rule": ({"chain_length": 17}, "mine.yaml: chain_length must be a multiple of 16, not 17"),
    "range": ({"chains": 0}, "mine.yaml: chains must be at least 1, not 0"),
}


@pytest.mark.parametrize("values, message", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_are_refused_by_name(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_accelerator(edited(tmp_path, **values))


BAD_FILES = {
    "not-yaml": (b"name: [", "must be YAML, not: "),
    "tag": (b"!!python/object:os.system x", "must be YAML, not: "),
    "binary": (b"\xff\xfe\x00", "must be a readable text file, not "),
    "empty": (b"", "in contents: Input should be a valid dictionary"),
    "list": (b"- 1", "in contents: Input should be a valid dictionary"),
}


@pytest.mark.parametrize("contents, message", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_are_refused_in_one_line(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(contents)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_accelerator(path)
    assert "\n" not in str(caught.value)


def test_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_accelerator(tmp_path / "absent.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        load_accelerator(tmp_path / "folder.yaml")
