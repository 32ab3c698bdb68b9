# SPDX-License-Identifier: Apache-2.0
"""The registry of devices: found by file name, described honestly, never replaced by another."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from catenary.isa.errors import DeviceError
from catenary.runtime import devices
from catenary.runtime.devices import DeviceInfo, device_info, device_names, list_devices, open_device
from catenary.sim.float_graph import FloatGraph
from tests.graphs import Recipe, build_graph
from tests.runtime.fake_engine import FakeEngine
