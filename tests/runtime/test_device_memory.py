# SPDX-License-Identifier: Apache-2.0
"""A program that needs more memory than this computer has is an error of the device, not a traceback."""

from __future__ import annotations

import pytest

from catenary.isa.errors import DeviceError
from catenary.runtime.devices import iss, open_device, reference
from tests.isa.small_programs import small_program


def test_devices_say_what_does_not_fit(monkeypatch):
    def refuse(*_: object) -> None:
        raise MemoryError

    program = small_program()
    monkeypatch.setattr(iss, "Machine", refuse)
    monkeypatch.setattr(reference, "Reference", refuse)
    nbytes = program.memory.lines * program.config.line_bytes
    with pytest.raises(DeviceError, match=f"^Memory of iss must fit into this computer, not be {nbytes} bytes$"):
        open_device("iss", program)
    with pytest.raises(DeviceError, match=r"^KV cache must fit into this computer, not be for 16 positions$"):
        open_device("reference", program)
