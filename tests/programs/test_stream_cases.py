# SPDX-License-Identifier: Apache-2.0
"""Programs for corners of the stream's decoders: the simulator and devices agree about them."""

from __future__ import annotations

import pytest

from catenary.isa.registers import ErrorCause
from tests.programs.cases import run_opened
from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.flipped_cases import simulated
from tests.programs.random_programs import CONFIGS
from tests.programs.stream_cases import HEADER_BITS, STREAMS, header_bit

every_config = pytest.mark.parametrize("config", CONFIGS)


@every_config
@pytest.mark.parametrize("name", STREAMS)
def test_a_program_is_legal(config, name):
    expected(checked(STREAMS[name](CONFIGS[config])))


def test_most_bits_of_a_header_are_looked_at():
    ignored = [bit for bit in HEADER_BITS if simulated(header_bit(CONFIGS["small"], bit)) is not None]
    assert len(ignored) < 8, ignored


@pytest.mark.slow
@pytest.mark.timeout(1200)
@every_config
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_agrees(config, device):
    accelerator = CONFIGS[config]
    cases = [make(accelerator) for make in STREAMS.values()]
    headers = [header_bit(accelerator, bit) for bit in HEADER_BITS]
    with DEVICES[device](accelerator) as opened:
        opened.allocate(max(len(case.image) for case in (*cases, *headers)))
        for case in cases:
            agree(opened, case)
        for case in headers:
            if simulated(case) is None:
                assert run_opened(opened, case).cause is ErrorCause.STREAM_FORMAT, case.name
            else:
                agree(opened, case)
        agree(opened, cases[0])
