# SPDX-License-Identifier: Apache-2.0
"""The top of the design: units, buffers and control, joined."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.axi import AXI4LiteSignature, AXI4Signature, connect_halves
from catenary.hw.buffers.codes import CodeBuffer
from catenary.hw.buffers.descriptors import DescriptorBuffer
from catenary.hw.buffers.vector import VectorBuffer
from catenary.hw.control.control import Control, TraceSignature
from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.signatures import tokens_of
from catenary.hw.matrix.unit import MatrixUnit
from catenary.hw.memory.line_reader import line_layout, port_names, read_ports
from catenary.hw.memory.load import LoadUnit
from catenary.hw.memory.store import StoreUnit
from catenary.hw.vector.unit import VectorUnit
from catenary.isa.config import AcceleratorConfig
from catenary.isa.registers import register_map


class Core(wiring.Component):
    """One accelerator core.

    Parameters:
        config: the accelerator.
        primitive: what the matrix unit multiplies codes with.

    Members:
        control: registers, as :func:`catenary.isa.registers.register_map` places them.
        memory_0, memory_1 ...: the memory ports. Each has an address space of its own, from 0 on.
        trace: what the units do, for waveforms and timelines; leave it open on a board.
    """

    def __init__(self, config: AcceleratorConfig, primitive: Primitive = Primitive.BEHAVIOURAL):
        self._config, self._primitive = config, primitive
        ports = {
            name: Out(AXI4Signature(half.address_bits, half.data_bits, half.id_bits))
            for name, half in read_ports(config).items()
        }
        super().__init__(
            {
                "control": In(AXI4LiteSignature(register_map(config).address_bits)),
                **ports,
                "trace": Out(TraceSignature),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.control = control = Control(config)
        reset = ResetInserter(control.core_reset)

        # Bus masters cannot forget what they have begun: `abort`, which stays on until they are idle, is their reset.
        m.submodules.load = load = LoadUnit(config)
        m.submodules.store = store = StoreUnit(config)
        matrix, vector = MatrixUnit(config, primitive=self._primitive), VectorUnit(config)
        m.submodules.matrix = reset(matrix)
        m.submodules.vector = reset(vector)
        for name, unit in (("load", load), ("store", store), ("matrix", matrix), ("vector", vector)):
            for member in ("insn", "done", "fault", "cause", "stall"):
                shell = getattr(control, name)
                if member == "insn":
                    connect(m, shell.insn, unit.insn)
                else:
                    m.d.comb += getattr(shell, member).eq(getattr(unit, member))

        v = VectorBuffer(config, readers=3, writers=3)
        a = CodeBuffer(config, readers=3, writers=2)
        d = DescriptorBuffer(config)
        m.submodules.v, m.submodules.a, m.submodules.d = reset(v), reset(a), reset(d)
        for client, port in zip((matrix.v_read, vector.v_read, store.v_read), v.reads, strict=True):
            connect(m, client, port)
        for client, port in zip((load.v_write, matrix.v_write, vector.v_write), v.writes, strict=True):
            connect(m, client, port)
        for client, port in zip((matrix.a_read, matrix.rows_read, store.a_read), a.reads, strict=True):
            connect(m, client, port)
        for client, port in zip((load.a_write, vector.a_write), a.writes, strict=True):
            connect(m, client, port)
        if tokens_of(config) > 1:
            connect(m, matrix.a_beside, a.beside)
        connect(m, load.d_write, d.write)
        connect(m, control.descriptors, d.read)
        connect(m, load.i_write, control.i_write)
        connect(m, control.fetch, load.fetch)

        w = SyncFIFOBuffered(width=line_layout(config).size, depth=config.stream_bytes // config.line_bytes)
        m.submodules.w = reset(w)
        m.d.comb += [
            w.w_data.eq(load.stream.payload),
            w.w_en.eq(load.stream.valid),
            load.stream.ready.eq(w.w_rdy),
            matrix.lines.payload.eq(w.r_data),
            matrix.lines.valid.eq(w.r_rdy),
            w.r_en.eq(matrix.lines.ready),
        ]

        for name in port_names(len(config.port_bytes)):
            connect_halves(m, getattr(self, name), getattr(load, name), getattr(store, name))
        connect(m, flipped(self.control), control.bus)
        connect(m, control.trace, flipped(self.trace))
        m.d.comb += [
            control.result.eq(vector.result),
            control.numeric.eq(vector.numeric),
            control.fetch_done.eq(load.fetch_done),
            control.stream_empty.eq(matrix.stream_empty & ~w.r_rdy),
            load.abort.eq(control.abort),
            store.abort.eq(control.abort),
            control.axi_idle.eq(load.idle & store.idle),
            control.moved.eq(load.moved | store.moved),
            control.multiplies.eq(matrix.multiplies),
            Cat(control.port_read).eq(load.beats),
        ]
        for index in range(len(config.port_bytes)):
            m.d.comb += control.port_written[index].eq(store.written[index])
        return m
