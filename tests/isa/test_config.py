# SPDX-License-Identifier: Apache-2.0
"""Accelerator configuration: every rule with its message, and a hash that identifies the hardware."""

import json
import re
from dataclasses import fields, replace

import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ConfigError

CONFIG = AcceleratorConfig(
    name="test",
    port_bytes=(32, 16),
    memory_bytes=1 << 20,
    chains=6,
    chain_length=32,
    mm_tokens=8,
    packed=True,
    stream_atom=8,
    stream_bytes=4096,
    vector_words=1024,
    vector_lanes=4,
    act_bytes=2048,
    desc_words=64,
    instruction_words=128,
    queue_depth=4,
)
HASH = "d4a4dbbc72f75649"


def test_derived_sizes():
    assert CONFIG.line_bytes == 48
    assert CONFIG.memory_lines == 21845
    assert [CONFIG.lines(n) for n in (0, 1, 48, 49)] == [0, 1, 1, 2]
    assert [CONFIG.block_rows(n) for n in (1, 2, 4, 8, 16)] == [192, 96, 48, 24, 12]


PORTS = "port_bytes must be one or more powers of two from 4 to 128, not {}"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"port_bytes": ()}, PORTS.format("()")),
        ({"port_bytes": (2,)}, PORTS.format("(2,)")),
        ({"port_bytes": (16, 24)}, PORTS.format("(16, 24)")),
        ({"port_bytes": (4,)}, "The ports together must be at least 8 bytes wide, not 4"),
        *(
            ({field.name: 0}, f"{field.name} must be at least 1, not 0")
            for field in fields(AcceleratorConfig)
            if field.type == "int"
        ),
        ({"chains": -1}, "chains must be at least 1, not -1"),
        ({"chains": (1 << 28) + 1}, f"chains must be at most {1 << 28}, not {(1 << 28) + 1}"),
        ({"memory_bytes": 1 << 49}, f"memory_bytes must be at most {1 << 48}, not {1 << 49}"),
        ({"chain_length": 24}, "chain_length must be a multiple of 16, not 24"),
        ({"act_bytes": 2049}, "act_bytes must be a multiple of 16, not 2049"),
        ({"stream_atom": 6}, "stream_atom must be a multiple of 4, not 6"),
        ({"vector_words": 1000}, "vector_words must be a multiple of 128, not 1000"),
        ({"mm_tokens": 1}, "mm_tokens must be at least 2 (P has two parts), not 1"),
        ({"stream_bytes": 95}, "stream_bytes must hold two lines of 48 bytes, not 95"),
    ],
    ids=str,
)
def test_every_rule_has_its_message(change, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        replace(CONFIG, **change)


@pytest.mark.parametrize("kept", [0, 3, 5, 32])
def test_block_rows_of_another_n_are_refused(kept):
    with pytest.raises(ConfigError, match=rf"^N must be one of \(1, 2, 4, 8, 16\), not {kept}$"):
        CONFIG.block_rows(kept)


def test_smallest_values_are_legal():
    replace(
        CONFIG, port_bytes=(4, 4), memory_bytes=1, chains=1, chain_length=16, mm_tokens=2, stream_atom=4,
        stream_bytes=16, vector_words=128, vector_lanes=1, act_bytes=16, desc_words=1, instruction_words=1,
        queue_depth=1,
    )  # fmt: skip


def test_plain_values_round_trip_through_json():
    values = json.loads(json.dumps(CONFIG.to_dict()))
    assert values["port_bytes"] == [32, 16]
    assert AcceleratorConfig.from_dict(values) == CONFIG


def test_from_dict_checks_the_rules():
    with pytest.raises(ConfigError, match=r"^chains must be at least 1, not 0$"):
        AcceleratorConfig.from_dict({**CONFIG.to_dict(), "chains": 0})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("chains", "6", "chains must be of type int, not '6'"),
        ("chains", 6.0, "chains must be of type int, not 6.0"),
        ("chains", True, "chains must be of type int, not True"),
        ("packed", 1, "packed must be of type bool, not 1"),
        ("name", 7, "name must be of type str, not 7"),
        ("port_bytes", 32, "port_bytes must be a list of integers, not 32"),
        ("port_bytes", [32, 16.0], "port_bytes must be a list of integers, not [32, 16.0]"),
        ("port_bytes", [True], "port_bytes must be a list of integers, not [True]"),
    ],
)
def test_from_dict_checks_types(name, value, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        AcceleratorConfig.from_dict({**CONFIG.to_dict(), name: value})


def test_from_dict_wants_exactly_the_parameters():
    names = sorted(CONFIG.to_dict())
    values = CONFIG.to_dict()
    del values["chains"]
    message = f"Accelerator parameters must be exactly {names}, not with {{}} missing or added"
    with pytest.raises(ConfigError, match=f"^{re.escape(message.format(['chains']))}$"):
        AcceleratorConfig.from_dict(values)
    with pytest.raises(ConfigError, match=f"^{re.escape(message.format(['clock']))}$"):
        AcceleratorConfig.from_dict({**CONFIG.to_dict(), "clock": 1})


def test_the_hash_never_changes_for_the_same_hardware():
    """Programs on disk and devices in the field carry it."""
    assert CONFIG.hash == HASH
    assert replace(CONFIG, name="another name").hash == HASH
    assert AcceleratorConfig.from_dict(CONFIG.to_dict()).hash == HASH


def test_every_parameter_but_the_name_changes_the_hash():
    changed = [
        replace(CONFIG, **{field.name: _other(getattr(CONFIG, field.name))})
        for field in fields(AcceleratorConfig)
        if field.name != "name"
    ]
    hashes = {config.hash for config in changed}
    assert len(hashes) == len(changed)
    assert HASH not in hashes
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in hashes)


def test_the_order_of_ports_matters():
    assert replace(CONFIG, port_bytes=(16, 32)).hash != HASH


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return (*value, 64) if isinstance(value, tuple) else value * 2
