# SPDX-License-Identifier: Apache-2.0
"""A DSP chain: in front of each multiplier a multiplexer picks the activation, behind them products are added up."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.buffers.signatures import CODE_BITS
from catenary.hw.dsp.segment import SEGMENT, TOTAL_BITS, DspSegment, Primitive
from catenary.hw.matrix.accumulators import SUM_BITS, Accumulators, depth_of
from catenary.hw.matrix.signatures import COLUMN_BITS, GroupWriteLayout, tile_slots, tokens_of
from catenary.hw.matrix.tile import TileGroup
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK

SEGMENTS = BLOCK // SEGMENT


def lane_delay(lane: int) -> int:
    """Cycles by which the sum that ends in a lane of a group comes later than that of lane 0."""
    return SEGMENT if lane == BLOCK - 1 else lane % SEGMENT


class LaneControl(wiring.Signature):
    """What all lanes do in a cycle, from the point of view of the sequencer.

    Lane l of a group is at position l mod ``SEGMENT`` of its segment. Members of so many bits or elements have one for
    each position, and that of position i is i cycles later than that of position 0.

    Members:
        load_index, index_slots: take the index out of this slot.
        words: activations, a word of A for each token.
        take: stage 1: each lane takes its activations from ``words``.
        load, weights_slots: with ``take``: take weights out of this slot.
        multiply, cut, add: stages 2 and 3, see :class:`~catenary.hw.dsp.segment.SegmentSignature`.
        join: a cycle after ``add`` of the last position: the sum of a group's last lane becomes that of its segment or,
            with ``joins``, that of the whole group.
        accumulate: by lane of a group, :func:`lane_delay` and stage 4: its sum is one that is to be accumulated.
        addresses, first, show, shown_at: with ``accumulate``, by :func:`lane_delay`: see :class:`Accumulators`.
        read_address: of the accumulators that are read.
        read_token: which of those side by side.
    """

    def __init__(self, config: AcceleratorConfig):
        slot, tokens = Out(range(tile_slots(config))), tokens_of(config)
        super().__init__(
            {
                "load_index": Out(SEGMENT),
                "index_slots": slot.array(SEGMENT),
                "words": Out(BLOCK * CODE_BITS).array(SEGMENT, tokens),
                "take": Out(SEGMENT),
                "load": Out(SEGMENT),
                "weights_slots": slot.array(SEGMENT),
                "multiply": Out(SEGMENT),
                "cut": Out(SEGMENT),
                "add": Out(SEGMENT),
                "join": Out(1),
                "joins": Out(1),
                "accumulate": Out(BLOCK),
                "addresses": Out(range(depth_of(config))).array(SEGMENT + 1),
                "first": Out(SEGMENT + 1),
                "show": Out(SEGMENT + 1),
                "shown_at": Out(range(depth_of(config))).array(SEGMENT + 1),
                "read_address": Out(range(depth_of(config))),
                "read_token": Out(range(tokens)),
            }
        )


class LaneGroup(wiring.Component):
    """16 lanes: one sum of 16 products a cycle, two of 8, four of 4, eight of 2 or 16 of 1.

    Sum j of N lanes ends in the last of them, lane j N + N - 1, without any multiplexer: the cascades are cut in front
    of lane j N. Only the sum of all 16 crosses from one segment to the next, in an adder of its own.

    Parameters:
        config: the accelerator.
        primitive: what multiplies.

    Members:
        control: what to do.
        write: ``tile`` is written.
        tile: a slot's weights and index.
        sums: accumulators of the lanes that are being read.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        primitive: Primitive = Primitive.BEHAVIOURAL,
    ):
        self._config, self._primitive = config, primitive
        self._tokens = tokens_of(config)
        super().__init__(
            {
                "control": In(LaneControl(config)),
                "write": In(1),
                "tile": In(GroupWriteLayout(config)),
                "sums": Out(signed(SUM_BITS)).array(BLOCK),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.tile = tile = TileGroup(tile_slots(self._config))
        m.d.comb += [
            tile.write.eq(self.write),
            tile.write_slot.eq(self.tile.slot),
            tile.weights.eq(self.tile.weights),
            tile.index.eq(self.tile.index),
            tile.load_index.eq(control.load_index),
        ]
        for name in ("index_slots", "weights_slots"):
            m.d.comb += [a.eq(b) for a, b in zip(getattr(tile, name), getattr(control, name), strict=True)]

        segments = []
        for number in range(SEGMENTS):
            m.submodules[f"segment_{number}"] = segment = DspSegment(SEGMENT, self._config.packed, self._primitive)
            m.d.comb += [
                getattr(segment, x).eq(getattr(control, x)) for x in ("take", "load", "multiply", "cut", "add")
            ]
            for i in range(SEGMENT):
                lane = number * SEGMENT + i
                m.d.comb += segment.w[i].eq(tile.weight[lane])
                for token, word in enumerate(control.words[i]):
                    m.d.comb += segment.a[i][token].eq(self._activation(word, tile.select[lane]))
            segments.append(segment)

        for lane in range(BLOCK):
            segment, i = segments[lane // SEGMENT], lane % SEGMENT
            carry = segment.carries[i]
            last = lane == BLOCK - 1
            for token in range(self._tokens):
                addend, late = segment.sums[i][token], Const(0)
                if last:
                    addend, late = self._joined(m, segments, token)
                m.submodules[f"accumulators_{lane}_{token}"] = accumulators = Accumulators(
                    self._config, len(addend), token == 1
                )
                m.d.comb += [
                    accumulators.add.eq(control.accumulate[lane]),
                    accumulators.address.eq(control.addresses[lane_delay(lane)]),
                    accumulators.first.eq(control.first[lane_delay(lane)]),
                    accumulators.show.eq(control.show[lane_delay(lane)]),
                    accumulators.show_at.eq(control.shown_at[lane_delay(lane)]),
                    accumulators.addend.eq(addend),
                    accumulators.read_address.eq(control.read_address),
                ]
                if token == 1:
                    m.d.comb += accumulators.carry.eq(late if last else carry)
                with m.If(control.read_token == token):
                    m.d.comb += self.sums[lane].eq(accumulators.sum)
        return m

    def _joined(self, m: Module, segments, token: int):
        """The register of the sum of the last lane, of its segment or of the whole group, and what to carry to it."""
        first, last = segments
        both = self.control.joins
        carries = token == 1
        total = Signal(signed(TOTAL_BITS + 1), name=f"joined_{token}", reset_less=True)
        late = Signal(name=f"late_{token}", reset_less=True)
        one, other = last.sums[-1][token], Mux(both, first.sums[-1][token], 0)
        if carries:  # one goes into this addition, the other into the next
            one, other = Cat(1, one).as_signed(), Cat(last.carries[-1], other).as_signed()
        with m.If(self.control.join):
            m.d.sync += total.eq((one + other) >> int(carries))
            m.d.sync += late.eq(first.carries[-1] & both)
        return total, late

    def _activation(self, word, index):
        """The byte of the word at ``index``: by two shifts of a machine word each, which is fast in simulation; where
        multipliers are instances, by a tree, in which synthesis finds the wide multiplexers that a part may have."""
        if self._primitive is not Primitive.BEHAVIOURAL:
            chosen = [word.word_select(place, CODE_BITS) for place in range(BLOCK)]
            for bit in index:
                chosen = [Mux(bit, *pair) for pair in zip(chosen[1::2], chosen[::2], strict=True)]
            return chosen[0].as_signed()
        half = BLOCK // 2 * CODE_BITS
        place = index[: COLUMN_BITS - 1]
        low, high = word[:half], word[half:]
        chosen = Mux(index[-1], high.word_select(place, CODE_BITS), low.word_select(place, CODE_BITS))
        return chosen.as_signed()


class Chain(wiring.Component):
    """Groups of lanes that lie together: ``chain_length`` multipliers. All chains are the same.

    Parameters:
        config: the accelerator.
        primitive: what multiplies.

    Members:
        control: what to do.
        writes: which groups of the chain are written.
        tile: by group, a slot's weights and index.
        sums: accumulators of the lanes that are being read.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        primitive: Primitive = Primitive.BEHAVIOURAL,
    ):
        self._config, self._primitive = config, primitive
        self._groups = config.chain_length // BLOCK
        super().__init__(
            {
                "control": In(LaneControl(config)),
                "writes": In(self._groups),
                "tile": In(GroupWriteLayout(config)).array(self._groups),
                "sums": Out(signed(SUM_BITS)).array(config.chain_length),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for index in range(self._groups):
            group = LaneGroup(self._config, self._primitive)
            m.submodules[f"group_{index}"] = group
            connect(m, flipped(self.control), group.control)
            m.d.comb += [group.write.eq(self.writes[index]), group.tile.eq(self.tile[index])]
            m.d.comb += [self.sums[BLOCK * index + lane].eq(group.sums[lane]) for lane in range(BLOCK)]
        return m
