# SPDX-License-Identifier: Apache-2.0
"""The core of an accelerator as Verilog."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from catenary.isa.config import AcceleratorConfig
from catenary.sim.rtl.cache import Progress, quiet
from catenary.sim.rtl.verilog import Design, design_from

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

TOP = "catenary_core"
"""Name of the Verilog module."""


def core_design(config: AcceleratorConfig, progress: Progress = quiet) -> Design:
    """The Verilog of ``config``'s core, from the cache where its sources have not changed.

    Raises:
        DeviceError: Amaranth or yosys is missing.
    """

    def recipe() -> Component:
        from catenary.hw.core import Core

        return Core(config)

    return design_from(recipe, "core", json.dumps(config.to_dict(), sort_keys=True), name=TOP, progress=progress)
