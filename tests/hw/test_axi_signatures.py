# SPDX-License-Identifier: Apache-2.0
"""AXI signatures, and what the masters refuse."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from catenary.hw.axi import (
    AXI4LiteSignature,
    AXI4ReadSignature,
    AXI4Signature,
    AXI4WriteSignature,
    address_bits,
    connect_halves,
)
from catenary.hw.memory.bursts import check_burst, check_depth

# AMBA AXI protocol specification, A2: the signals of AXI4 but USER, clock and reset, by who drives them.
ADDRESS = {"addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "region", "id", "valid"}
DRIVEN = {f"a{kind}{name}" for kind in "rw" for name in ADDRESS} | {"wdata", "wstrb", "wlast", "wvalid"}
DRIVEN |= {"bready", "rready"}
TAKEN = {"arready", "awready", "wready", "bid", "bresp", "bvalid", "rid", "rdata", "rresp", "rlast", "rvalid"}
LITE_DRIVEN = {f"a{kind}{name}" for kind in "rw" for name in ("addr", "prot", "valid")}
LITE_DRIVEN |= {"wdata", "wstrb", "wvalid", "bready", "rready"}
LITE_TAKEN = {"awready", "arready", "wready", "bresp", "bvalid", "rdata", "rresp", "rvalid"}


def names(signature, flow) -> set[str]:
    return {name for name, member in signature.members.items() if member.flow is flow}


def test_signals() -> None:
    port, lite = AXI4Signature(32, 64), AXI4LiteSignature(12)
    assert (names(port, Out), names(port, In)) == (DRIVEN, TAKEN)
    assert (names(lite, Out), names(lite, In)) == (LITE_DRIVEN, LITE_TAKEN)
    assert AXI4ReadSignature(32, 64) == AXI4ReadSignature(32, 64) != AXI4ReadSignature(32, 128)
    assert AXI4ReadSignature(32, 64) != AXI4WriteSignature(32, 64)
    assert address_bits(1 << 20, 8) == 23
    assert address_bits(3, 4) == 4


@pytest.mark.parametrize("bits", [0, 4, 24, 2048])
@pytest.mark.parametrize("signature", [AXI4Signature, AXI4ReadSignature, AXI4WriteSignature])
def test_data_bits(signature, bits: int) -> None:
    with pytest.raises(ValueError, match=f"must be a power of two from 8 to 1024, not {bits}"):
        signature(32, bits)


def test_lite_data_bits() -> None:
    with pytest.raises(ValueError, match="AXI4-Lite data_bits must be 32 or 64, not 16"):
        AXI4LiteSignature(12, 16)


def test_masters_refuse() -> None:
    with pytest.raises(ValueError, match="max_burst must be a power of two of at most 64, not 128"):
        check_burst(128, data_bytes=64)
    with pytest.raises(ValueError, match="max_burst must be a power of two of at most 256, not 24"):
        check_burst(24, data_bytes=8)
    with pytest.raises(ValueError, match="depth must be at least 16 beats, not 4"):
        check_depth(4, least=16)


class Passage(wiring.Component):
    """Two halves in, one port out."""

    def __init__(self):
        self.read, self.write = AXI4ReadSignature(16, 32).create(), AXI4WriteSignature(16, 32).create()
        super().__init__({"port": Out(AXI4Signature(16, 32))})

    def elaborate(self, platform):
        m = Module()
        connect_halves(m, self.port, self.read, self.write)
        return m


def test_halves() -> None:
    dut = Passage()

    async def script(ctx) -> None:
        for value in (0, 1):
            for name, member in dut.port.signature.members.items():
                half = dut.read if name in dut.read.signature.members else dut.write
                ours, theirs = getattr(half, name), getattr(dut.port, name)
                driver, driven = (ours, theirs) if member.flow is Out else (theirs, ours)
                bits = getattr(driver, "as_value", lambda driver=driver: driver)()
                ctx.set(bits, value)
                assert ctx.get(getattr(driven, "as_value", lambda driven=driven: driven)()) == value, name

    sim = Simulator(dut)
    sim.add_testbench(script)
    sim.run()
