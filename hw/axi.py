# SPDX-License-Identifier: Apache-2.0
"""AXI4 and AXI4-Lite interfaces, with the signal names of the AMBA AXI protocol specification (ARM IHI 0022).

Signatures are from the manager's (master's) point of view: ``Out`` is what the manager drives. An AXI4 port has two
halves that know nothing of each other, so one component may read and another may write through the same port:
:func:`connect_halves` joins them.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

BOUNDARY = 4096
"""Bytes; a burst must not cross a multiple of it."""

MAX_BURST = 256
"""Most beats of an INCR burst."""

MAX_DATA_BITS = 1024
"""Widest data bus."""


class Burst(enum.Enum, shape=2):
    """AxBURST."""

    FIXED = 0
    INCR = 1
    WRAP = 2


class Resp(enum.Enum, shape=2):
    """RRESP and BRESP; the high bit is set for errors."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Cache(enum.Flag, shape=4):
    """AxCACHE."""

    BUFFERABLE = 1
    MODIFIABLE = 2
    READ_ALLOCATE = 4
    WRITE_ALLOCATE = 8


class Prot(enum.Flag, shape=3):
    """AxPROT; 0 is an unprivileged, secure data access."""

    PRIVILEGED = 1
    NON_SECURE = 2
    INSTRUCTION = 4


NORMAL_MEMORY = Cache.BUFFERABLE | Cache.MODIFIABLE
"""AxCACHE of what is plain memory: normal, non-cacheable, bufferable."""


def address_bits(beats: int, data_bytes: int) -> int:
    """Bits of a byte address of a memory of ``beats`` beats of ``data_bytes`` bytes, a power of two."""
    return ceil_log2(beats) + exact_log2(data_bytes)


def _address_channel(prefix, address_bits, id_bits):
    signals = {
        "id": id_bits,
        "addr": address_bits,
        "len": 8,
        "size": 3,
        "burst": Burst,
        "lock": 1,
        "cache": Cache,
        "prot": Prot,
        "qos": 4,
        "region": 4,
        "valid": 1,
    }
    return {**{prefix + name: Out(shape) for name, shape in signals.items()}, prefix + "ready": In(1)}


class _AxiSignature(wiring.Signature):
    """What AXI4 signatures share: their widths."""

    def __init__(self, address_bits: int, data_bits: int, id_bits: int, members: dict) -> None:
        self.address_bits = address_bits
        self.data_bits = data_bits
        self.id_bits = id_bits
        super().__init__(members)

    @staticmethod
    def check(data_bits: int) -> None:
        """Check the width of a data bus.

        Raises:
            ValueError: it is no power of two from 8 to 1024.
        """
        if data_bits not in (8 << shift for shift in range(exact_log2(MAX_DATA_BITS // 8) + 1)):
            raise ValueError(f"AXI4 data_bits must be a power of two from 8 to {MAX_DATA_BITS}, not {data_bits}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.members == other.members

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address_bits}, {self.data_bits}, {self.id_bits})"


class AXI4ReadSignature(_AxiSignature):
    """The read half of an AXI4 port: channels AR and R.

    Parameters:
        address_bits: width of ARADDR.
        data_bits: width of RDATA, a power of two from 8 to 1024.
        id_bits: width of ARID and RID.
    """

    def __init__(self, address_bits: int, data_bits: int, id_bits: int = 1) -> None:
        self.check(data_bits)
        members = _address_channel("ar", address_bits, id_bits)
        members |= {"rid": In(id_bits), "rdata": In(data_bits), "rresp": In(Resp), "rlast": In(1)}
        members |= {"rvalid": In(1), "rready": Out(1)}
        super().__init__(address_bits, data_bits, id_bits, members)


class AXI4WriteSignature(_AxiSignature):
    """The write half of an AXI4 port: channels AW, W and B.

    Parameters:
        address_bits: width of AWADDR.
        data_bits: width of WDATA, a power of two from 8 to 1024.
        id_bits: width of AWID and BID.
    """

    def __init__(self, address_bits: int, data_bits: int, id_bits: int = 1) -> None:
        self.check(data_bits)
        members = _address_channel("aw", address_bits, id_bits)
        members |= {"wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1)}
        members |= {"wvalid": Out(1), "wready": In(1)}
        members |= {"bid": In(id_bits), "bresp": In(Resp), "bvalid": In(1), "bready": Out(1)}
        super().__init__(address_bits, data_bits, id_bits, members)


class AXI4Signature(_AxiSignature):
    """An AXI4 port: both halves.

    Parameters:
        address_bits: width of AWADDR and ARADDR.
        data_bits: width of WDATA and RDATA, a power of two from 8 to 1024.
        id_bits: width of all IDs.
    """

    def __init__(self, address_bits: int, data_bits: int, id_bits: int = 1) -> None:
        halves = (half(address_bits, data_bits, id_bits) for half in (AXI4WriteSignature, AXI4ReadSignature))
        members = {name: member for half in halves for name, member in half.members.items()}
        super().__init__(address_bits, data_bits, id_bits, members)


class AXI4LiteSignature(wiring.Signature):
    """An AXI4-Lite port: single beats of 32 or 64 bits, no IDs.

    Parameters:
        address_bits: width of AWADDR and ARADDR.
        data_bits: width of WDATA and RDATA, 32 or 64.
    """

    def __init__(self, address_bits: int, data_bits: int = 32) -> None:
        if data_bits not in (32, 64):
            raise ValueError(f"AXI4-Lite data_bits must be 32 or 64, not {data_bits}")
        self.address_bits = address_bits
        self.data_bits = data_bits
        address = {"addr": Out(address_bits), "prot": Out(Prot), "valid": Out(1), "ready": In(1)}
        super().__init__(
            {
                **{"aw" + name: member for name, member in address.items()},
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(Resp),
                "bvalid": In(1),
                "bready": Out(1),
                **{"ar" + name: member for name, member in address.items()},
                "rdata": In(data_bits),
                "rresp": In(Resp),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.members == other.members

    def __repr__(self) -> str:
        return f"AXI4LiteSignature({self.address_bits}, {self.data_bits})"


def connect_halves(m: Module, port, read, write) -> None:
    """Join the read half of one component and the write half of another into one port of the module that has both.

    Parameters:
        m: where to connect.
        port: interface of ``AXI4Signature`` as the module that has it sees it (a member ``Out``).
        read: interface of ``AXI4ReadSignature``, a member ``Out`` of a submodule.
        write: interface of ``AXI4WriteSignature``, likewise.
    """
    for half in (read, write):
        for name, member in half.signature.members.items():
            if member.flow is Out:
                m.d.comb += getattr(port, name).eq(getattr(half, name))
            else:
                m.d.comb += getattr(half, name).eq(getattr(port, name))
