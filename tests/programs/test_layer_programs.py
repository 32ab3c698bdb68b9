# SPDX-License-Identifier: Apache-2.0
"""Linear layers of every format: the simulator gives what numpy gives, a device what the simulator gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from catenary.isa.tensors import BLOCK, KEPT_CHOICES
from catenary.runtime.device import MemoryDevice
from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.layer_programs import MOST_TOKENS, LayerCase, layer_case
from tests.programs.support import HBM_SLICE, SMALL, UNEVEN

CONFIGS = {config.name: config for config in (SMALL, HBM_SLICE, UNEVEN)}

QUICK = 14
"""Programs for each accelerator that every run of the tests checks ..."""

ALL = 300
"""... and that the slow ones do."""


@cache
def program(config: str, seed: int) -> LayerCase:
    return layer_case(CONFIGS[config], seed)


def assert_evaluated(name: str, seeds: range) -> None:
    """The simulator, with its race detector on, leaves what numpy makes of the row blocks."""
    for seed in seeds:
        made = program(name, seed)
        memory = expected(checked(made.case)).memory
        for result in made.results:
            same = result.found(memory, CONFIGS[name]).tobytes() == result.values.tobytes()
            assert same, f"{result.what}\n{made.case.describe()}"


@pytest.mark.parametrize("config", CONFIGS)
def test_layers_are_what_numpy_makes_of_them(config):
    assert_evaluated(config, range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_more_layers_are_what_numpy_makes_of_them(config):
    assert_evaluated(config, range(QUICK, ALL))


@pytest.mark.parametrize("config", CONFIGS)
def test_layers_reach_every_format_and_shape(config):
    """What the programs above have in them, so that agreement on them means something."""
    found: Counter[object] = Counter()
    mm_tokens = CONFIGS[config].mm_tokens
    for seed in range(QUICK):
        made = program(config, seed)
        for tensor in made.tensors:
            kinds = {int(n) for n in tensor.kept}
            found.update(("kept", n) for n in kinds)
            found["bits", tensor.bits] += 1
            found["mixed"] += len(kinds) > 1
            found["table"] += tensor.table is not None
            found["outliers"] += tensor.outliers is not None
            found["odd columns"] += tensor.columns % BLOCK > 0
            found["short group"] += tensor.columns % tensor.group > BLOCK
            found["one column"] += tensor.columns == 1
            found["one row"] += tensor.rows == 1
            found["several row blocks"] += tensor.rows > CONFIGS[config].block_rows(min(kinds))
        tokens = [len(result.values) for result in made.results]
        found["one token"] += 1 in tokens
        found["full tile"] += mm_tokens in tokens
        found["several tiles"] += sum(tokens) > MOST_TOKENS
    wanted = {("kept", n) for n in KEPT_CHOICES} | {("bits", n) for n in (2, 3, 4, 8)}
    assert not {name for name in wanted if not found[name]}, found
    assert not {name for name, count in found.items() if not count}, found


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[MemoryDevice, str]]:
    """A device of one accelerator with memory for every program, open for all tests with it."""
    device, config = request.param
    with DEVICES[device](CONFIGS[config]) as found:
        found.allocate(max(len(program(config, seed).case.image) for seed in range(ALL)))
        yield found, config


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "opened", [(device, config) for config in CONFIGS for device in DEVICES], indirect=True, ids="-".join
)
def test_a_device_agrees_on_layers(opened):
    device, config = opened
    for seed in range(ALL):
        agree(device, program(config, seed).case)
