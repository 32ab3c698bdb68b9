# SPDX-License-Identifier: Apache-2.0
"""Comparing what devices leave behind with what the instruction-set simulator leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from catenary.isa.code_check import check_code, check_fits
from catenary.isa.config import AcceleratorConfig
from catenary.runtime.device import MemoryDevice
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.cases import Case, Outcome, iss_device, run_case, run_opened

DEVICES: Mapping[str, Callable[[AcceleratorConfig], MemoryDevice]] = {
    "rtl": RtlDevice,
    "rtl-stalls": lambda config: RtlDevice(
        config, RtlOptions(model=MemoryModel.unthrottled(latency=3, stall=0.3, seed=1))
    ),
}
"""What is compared with the simulator."""


@cache
def expected(case: Case) -> Outcome:
    """What the simulator says, with its race detector on."""
    return run_case(iss_device(case.config, len(case.image)), case)


def checked(case: Case) -> Case:
    """``case``, whose code breaks no rule that can be seen without running it."""
    check_code(case.code, [case.entry])
    check_fits(case.code, case.config)
    return case


def agree(device: MemoryDevice, case: Case) -> None:
    difference = expected(case).difference(run_opened(device, case), case.config.line_bytes)
    assert not difference, f"{difference}\n{case.describe()}"
