# SPDX-License-Identifier: Apache-2.0
"""What a client of an on-chip buffer sees.

Directions are the client's. A request is accepted in the cycle in which ``valid`` and ``ready`` are both high. Reads
are answered a fixed number of cycles later, in order, without backpressure: a client asks for what it has room for.
``fault`` pulses after a request that reaches behind the end of the buffer; nothing is written then.
"""

from __future__ import annotations

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import WORD_BITS
from catenary.isa.tensors import BLOCK

V_ADDRESS_BITS = 20
"""Width of an address of V, counted in FP32 words, as instructions have it."""
A_ADDRESS_BITS = 16
"""Width of an address of A, counted in words of ``BLOCK`` codes."""
D_ADDRESS_BITS = 20
"""Width of an address of D, counted in 64-bit words."""

V_LATENCY = 2
"""Cycles from an accepted read of V to its data."""
A_LATENCY = 2
"""Cycles from an accepted read of A to its data."""
D_LATENCY = 1
"""Cycles from an enabled read of D to its data."""

CODE_BITS = 8
D_BITS = 64


class VRead(Signature):
    """A reader of V: up to ``vector_lanes`` consecutive words a cycle, from any address on.

    Parameters:
        config: the accelerator.

    Members:
        request: ``address`` of the first word and ``count`` of words, at least 1.
        data: the words, ``V_LATENCY`` cycles after the request was accepted; lanes from ``count`` on are undefined.
        valid: there is an answer in this cycle.
        fault: the request answered in this cycle reached behind V.
    """

    def __init__(self, config: AcceleratorConfig):
        lanes = config.vector_lanes
        request = data.StructLayout({"address": V_ADDRESS_BITS, "count": range(lanes + 1)})
        super().__init__(
            {
                "request": Out(stream.Signature(request)),
                "data": In(data.ArrayLayout(32, lanes)),
                "valid": In(1),
                "fault": In(1),
            }
        )


class VWrite(Signature):
    """A writer of V: up to ``vector_lanes`` consecutive words a cycle, from any address on.

    A read that is accepted in a later cycle than the write sees it.

    Parameters:
        config: the accelerator.

    Members:
        request: ``address`` of the first word, ``count`` of words, at least 1, and ``data``.
        fault: the request accepted in the cycle before reached behind V.
    """

    def __init__(self, config: AcceleratorConfig):
        lanes = config.vector_lanes
        request = data.StructLayout(
            {"address": V_ADDRESS_BITS, "count": range(lanes + 1), "data": data.ArrayLayout(32, lanes)}
        )
        super().__init__({"request": Out(stream.Signature(request)), "fault": In(1)})


class ARead(Signature):
    """A reader of A: one word of 16 codes a cycle.

    Parameters:
        config: the accelerator.

    Members:
        request: address of the word.
        data: its codes, ``A_LATENCY`` cycles after the request was accepted.
        valid: there is an answer in this cycle.
        fault: the request answered in this cycle reached behind A.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(A_ADDRESS_BITS)),
                "data": In(BLOCK * CODE_BITS),
                "valid": In(1),
                "fault": In(1),
            }
        )


class ABeside(Signature):
    """A second word for a reader of A, in the same cycle as that of :class:`ARead`.

    Members:
        both: the request asks for a second word; it is then accepted only while A is not written.
        address: of the second word.
        data: its codes, with those of the first one. ``fault`` is common to both.
    """

    def __init__(self):
        super().__init__({"both": Out(1), "address": Out(A_ADDRESS_BITS), "data": In(BLOCK * CODE_BITS)})


class AWrite(Signature):
    """A writer of A: one word of 16 codes a cycle, each with its own enable.

    Parameters:
        config: the accelerator.

    Members:
        request: ``address`` of the word, ``mask`` of codes to write, and ``data``.
        fault: the request accepted in the cycle before reached behind A.
    """

    def __init__(self, config: AcceleratorConfig):
        request = data.StructLayout({"address": A_ADDRESS_BITS, "mask": BLOCK, "data": BLOCK * CODE_BITS})
        super().__init__({"request": Out(stream.Signature(request)), "fault": In(1)})


class DWrite(Signature):
    """The writer of D, which is the load unit.

    Parameters:
        config: the accelerator.

    Members:
        request: ``address`` of a 64-bit word, and ``data``; always accepted.
        fault: the request accepted in the cycle before reached behind D.
    """

    def __init__(self, config: AcceleratorConfig):
        request = data.StructLayout({"address": D_ADDRESS_BITS, "data": D_BITS})
        super().__init__({"request": Out(stream.Signature(request)), "fault": In(1)})


class DRead(Signature):
    """The reader of D, which is dispatch.

    Parameters:
        config: the accelerator.

    Members:
        address: of a 64-bit word.
        enable: read it.
        data: the word, ``D_LATENCY`` cycles later; it stays until the next read.
        fault: the address of the read before was behind D.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"address": Out(D_ADDRESS_BITS), "enable": Out(1), "data": In(D_BITS), "fault": In(1)})


class IWrite(Signature):
    """The writer of the instruction buffer, which is the load unit when it fetches code.

    Parameters:
        config: the accelerator.

    Members:
        request: ``address`` of an instruction word, and ``data``; always accepted.
    """

    def __init__(self, config: AcceleratorConfig):
        request = data.StructLayout({"address": range(config.instruction_words), "data": WORD_BITS})
        super().__init__({"request": Out(stream.Signature(request))})
