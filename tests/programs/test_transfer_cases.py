# SPDX-License-Identifier: Apache-2.0
"""Programs for corners of the load and store units: the simulator and devices agree about them."""

from __future__ import annotations

import pytest

from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.random_programs import CONFIGS
from tests.programs.transfer_cases import TRANSFERS

every_config = pytest.mark.parametrize("config", CONFIGS)


@every_config
@pytest.mark.parametrize("name", TRANSFERS)
def test_a_program_is_legal(config, name):
    expected(checked(TRANSFERS[name](CONFIGS[config])))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@every_config
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_agrees(config, device):
    cases = [make(CONFIGS[config]) for make in TRANSFERS.values()]
    with DEVICES[device](CONFIGS[config]) as opened:
        opened.allocate(max(len(case.image) for case in cases))
        for case in cases:
            agree(opened, case)
