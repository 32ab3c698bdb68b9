# SPDX-License-Identifier: Apache-2.0
"""A DSP chain: in front of each multiplier a multiplexer picks the activation, behind them products are added up."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import CODE_BITS
from catenary.hw.matrix.accumulators import SUM_BITS, AccumulatorControl, Accumulators
from catenary.hw.matrix.signatures import COLUMN_BITS, SLOTS, WEIGHT_BITS, TileWriteLayout, fill_groups
from catenary.hw.matrix.tile import TileGroup
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK

PRODUCT_BITS = CODE_BITS + WEIGHT_BITS
LOW_LEVELS = 2
"""Levels of the reduction in front of the register in its middle."""
LEVELS = BLOCK.bit_length() - 1


def lane_level(lane: int) -> int:
    """The highest level of the reduction at which a lane of a group holds a sum: sums of 2**level lanes."""
    return LEVELS if not lane else (lane & -lane).bit_length() - 1


class LaneControl(wiring.Signature):
    """What all lanes do in a cycle, stage by stage, from the point of view of the sequencer.

    Where there is one bit for each level, lanes whose :func:`lane_level` is higher than the last level share its bit.

    Members:
        load_index, index_slot: take the index out of this slot.
        word: activations, a word of A.
        select: stage 1: each lane takes its activation from ``word``.
        load_weights, weights_slot: with ``select``: take weights out of this slot.
        multiply: stage 2.
        low: stage 3: lanes of which levels hold a value after levels 1 and 2 of the reduction.
        low_add: which of these two levels add.
        high, high_add: stage 4: the same for levels 3 and 4.
        add: stage 5: lanes of which levels hold a sum, to be added to their accumulator.
        accumulators: stage 5.
    """

    def __init__(self, config: AcceleratorConfig, slots: int = SLOTS):
        super().__init__(
            {
                "load_index": Out(1),
                "index_slot": Out(range(slots)),
                "word": Out(BLOCK * CODE_BITS),
                "select": Out(1),
                "load_weights": Out(1),
                "weights_slot": Out(range(slots)),
                "multiply": Out(1),
                "low": Out(LOW_LEVELS + 1),
                "low_add": Out(LOW_LEVELS),
                "high": Out(LEVELS + 1),
                "high_add": Out(LEVELS - LOW_LEVELS),
                "add": Out(LEVELS + 1),
                "accumulators": Out(AccumulatorControl(config)),
            }
        )


class Dsp(wiring.Component):
    """One multiplier with registers around it, as DSP slices have them.

    Members:
        a, load_a: activation, and whether its register takes it.
        b, load_b: weight, and whether its register takes it.
        multiply: the product of the registers becomes ``product``.
        product: of the last ``multiply``.
    """

    def __init__(self):
        super().__init__(
            {
                "a": In(signed(CODE_BITS)),
                "load_a": In(1),
                "b": In(signed(WEIGHT_BITS)),
                "load_b": In(1),
                "multiply": In(1),
                "product": Out(signed(PRODUCT_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        activation = Signal(signed(CODE_BITS), reset_less=True)
        weight = Signal(signed(WEIGHT_BITS), reset_less=True)
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        with m.If(self.load_a):
            m.d.sync += activation.eq(self.a)
        with m.If(self.load_b):
            m.d.sync += weight.eq(self.b)
        with m.If(self.multiply):
            m.d.sync += product.eq(activation * weight)
        m.d.comb += self.product.eq(product)
        return m


class LaneGroup(wiring.Component):
    """16 lanes: one sum of 16 products a cycle, two of 8, four of 4, eight of 2 or 16 of 1.

    The reduction works in place: at level k, lane l (a multiple of 2**k) takes the sum of itself and lane l + 2**(k-1),
    if that many lanes are to be added up. So sum j of N lanes ends in lane j * N without any multiplexer.

    Parameters:
        config: the accelerator.
        position: of this group in tile writes.
        slots: slots of the tile ring.

    Members:
        control: what to do.
        write: this group's part of ``tile`` is written.
        tile: weights and index.
        sums: accumulators of the lanes that are being read.
    """

    def __init__(self, config: AcceleratorConfig, position: int = 0, slots: int = SLOTS):
        self._config, self._position, self._slots = config, position, slots
        super().__init__(
            {
                "control": In(LaneControl(config, slots)),
                "write": In(1),
                "tile": In(TileWriteLayout(config, slots)),
                "sums": Out(signed(SUM_BITS)).array(BLOCK),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.tile = tile = TileGroup(self._slots)
        m.d.comb += [
            tile.write.eq(self.write),
            tile.write_slot.eq(self.tile.slot),
            tile.weights.eq(self.tile.weights[self._position]),
            tile.index.eq(self.tile.index[self._position]),
            tile.load_index.eq(control.load_index),
            tile.index_slot.eq(control.index_slot),
            tile.weights_slot.eq(control.weights_slot),
        ]
        values = []
        for lane in range(BLOCK):
            m.submodules[f"dsp_{lane}"] = dsp = Dsp()
            m.d.comb += [
                dsp.a.eq(self._activation(tile.select[lane])),
                dsp.load_a.eq(control.select),
                dsp.b.eq(tile.weight[lane]),
                dsp.load_b.eq(control.load_weights),
                dsp.multiply.eq(control.multiply),
            ]
            values.append(dsp.product)
        values = self._reduced(m, values, range(1, LOW_LEVELS + 1), control.low_add, control.low, "low")
        values = self._reduced(m, values, range(LOW_LEVELS + 1, LEVELS + 1), control.high_add, control.high, "high")
        for lane, value in enumerate(values):
            m.submodules[f"accumulators_{lane}"] = accumulators = Accumulators(self._config, len(value))
            wiring.connect(m, wiring.flipped(control.accumulators), accumulators.control)
            m.d.comb += [
                accumulators.add.eq(control.add[lane_level(lane)]),
                accumulators.addend.eq(value),
                self.sums[lane].eq(accumulators.sum),
            ]
        return m

    def _activation(self, index):
        """The byte of the word at ``index``, as two shifts of a machine word each: fast in simulation, and the same
        multiplexers in hardware."""
        half = BLOCK // 2 * CODE_BITS
        place = index[: COLUMN_BITS - 1]
        low, high = self.control.word[:half], self.control.word[half:]
        chosen = Mux(index[-1], high.word_select(place, CODE_BITS), low.word_select(place, CODE_BITS))
        return chosen.as_signed()

    @staticmethod
    def _reduced(m: Module, values, levels, adds, enables, name: str):
        """Registers behind some levels of the reduction, each as wide as what it may hold."""
        for level, add in zip(levels, adds, strict=True):
            half = 1 << level - 1
            values = [
                value + Mux(add, values[lane + half], 0) if lane_level(lane) >= level else value
                for lane, value in enumerate(values)
            ]
        registers = [
            Signal(signed(len(value)), name=f"{name}_{lane}", reset_less=True) for lane, value in enumerate(values)
        ]
        for level in range(len(enables)):
            with m.If(enables[level]):
                m.d.sync += [
                    register.eq(value)
                    for lane, (register, value) in enumerate(zip(registers, values, strict=True))
                    if min(lane_level(lane), len(enables) - 1) == level
                ]
        return registers


class Chain(wiring.Component):
    """Groups of lanes that lie together: ``chain_length`` multipliers.

    Parameters:
        config: the accelerator.
        first: number of its first group.
        slots: slots of the tile ring.

    Members:
        control: what to do.
        writes: which groups of the chain are written.
        tile: weights and index.
        sums: accumulators of the lanes that are being read.
    """

    def __init__(self, config: AcceleratorConfig, first: int = 0, slots: int = SLOTS):
        self._config, self._first, self._slots = config, first, slots
        self._groups = config.chain_length // BLOCK
        super().__init__(
            {
                "control": In(LaneControl(config, slots)),
                "writes": In(self._groups),
                "tile": In(TileWriteLayout(config, slots)),
                "sums": Out(signed(SUM_BITS)).array(config.chain_length),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for index in range(self._groups):
            position = (self._first + index) % fill_groups(self._config)
            m.submodules[f"group_{index}"] = group = LaneGroup(self._config, position, self._slots)
            wiring.connect(m, wiring.flipped(self.control), group.control)
            m.d.comb += [group.write.eq(self.writes[index]), group.tile.eq(self.tile)]
            m.d.comb += [self.sums[BLOCK * index + lane].eq(group.sums[lane]) for lane in range(BLOCK)]
        return m
