# SPDX-License-Identifier: Apache-2.0
"""What the stream front hands to the multiplier array and its emitter: tile writes, steps and constants of rows.

The front fills *slots* of the tile ring, 16 lanes (a *group*) at a time, and describes each full slot with one *step*.
The array takes steps in order and gives a slot back when it has used it. Per row block the front also writes scales
and biases of rows, into the bank that the steps of the row block name.

Banks. Every row block of MM and MV, every tile of SCORE and every CONTEXT sum (from the instruction that clears it to
the one that emits it) has one of the banks, in turn. The front claims the bank and waits while it is still claimed; the
emitter gives it back with a pulse of ``bank_free`` when it has read the last accumulator and constant of it, once per
row block, tile or emitting CONTEXT. Instructions with no tokens claim nothing and are given nothing back.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from catenary.hw.buffers.signatures import A_ADDRESS_BITS, CODE_BITS
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import KEY_LIMIT
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

SLOT_CYCLES = 24
"""Cycles that a slot is in use for one token: through the expander, in the queue of steps, through the array."""

WEIGHT_BITS = CODE_BITS
"""An expanded weight."""

COLUMN_BITS = exact_log2(BLOCK)
"""A column number inside a block of 16."""

BANKS = 4
"""Banks of constants, and so row blocks that may be under way: being filled, multiplied, emitted, given back."""


def lanes_of(config: AcceleratorConfig) -> int:
    """Multipliers of the array; lane l is number l % chain_length of chain l // chain_length."""
    return config.chains * config.chain_length


def groups_of(config: AcceleratorConfig) -> int:
    """Groups of 16 lanes."""
    return config.groups


def sum_lane(row: int, level: int) -> int:
    """The lane that holds the sum of row ``row`` of a row block with N = 2**level: the last of the row's lanes."""
    return (row + 1 << level) - 1


def tokens_of(config: AcceleratorConfig) -> int:
    """Rows of A that go through the array side by side."""
    return 2 if config.packed else 1


def fill_groups(config: AcceleratorConfig) -> int:
    """Groups that are written in one cycle: all of a slot in the cycles in which its 4-bit codes can come."""
    return config.fill_groups


def fill_rows(config: AcceleratorConfig) -> int:
    """Writes that make a slot."""
    return -(-groups_of(config) // fill_groups(config))


def tile_slots(config: AcceleratorConfig) -> int:
    """Slots of the tile ring, a power of two: a whole key must fit, and there must be enough of them that the next
    slot can be written while those before it are in use."""
    wanted = max(KEY_LIMIT // BLOCK, -(-SLOT_CYCLES // fill_rows(config)))
    return 1 << ceil_log2(wanted)


class GroupWriteLayout(data.StructLayout):
    """One group of a slot.

    Members:
        slot: which slot
        weights: INT8 of each lane
        index: byte of the activation word that each lane multiplies
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "slot": range(tile_slots(config)),
                "weights": data.ArrayLayout(signed(WEIGHT_BITS), BLOCK),
                "index": data.ArrayLayout(COLUMN_BITS, BLOCK),
            }
        )


class TileWriteLayout(data.StructLayout):
    """``fill_groups`` neighbouring groups of a slot, or some of them.

    Members:
        slot: which slot
        row: group g is number g % fill_groups of the write whose row is g // fill_groups; there may be numbers behind
            the last group
        mask: which of these groups are written
        weights: INT8 of each of their lanes; 0 in lanes behind the last row of a row block and behind the end of a key
        index: byte of the activation word that each of their lanes multiplies
    """

    def __init__(self, config: AcceleratorConfig):
        groups, group = fill_groups(config), GroupWriteLayout(config)
        super().__init__(
            {
                "slot": group["slot"].shape,
                "row": range(fill_rows(config)),
                "mask": groups,
                "weights": data.ArrayLayout(group["weights"].shape, groups),
                "index": data.ArrayLayout(group["index"].shape, groups),
            }
        )


class StepLayout(data.StructLayout):
    """How to use one slot.

    A slot's groups that no row of the row block, key of the tile or channel of the turn lies in are left as they were,
    and so are the sums that they lead to undefined.

    Members:
        slot: the slot; steps come in the order of slots
        kept: log2 of the lanes that a reduction adds up; 0 = every lane is a sum of its own
        act_word: added to the address of every token's row in A
        first: sums start from 0 with this step
        last: sums of this row block are complete with this step; in CONTEXT, on the last turn of the last value row
            of the emitting instruction
        part_base: added to the address of the accumulators; turn * 2 * tokens in CONTEXT, else 0
        rows: rows of the row block, keys of the tile (valid with ``last``; 0 in CONTEXT)
        has_bias: the row block has biases, which are to be added (valid with ``last``)
        bank: of accumulators and constants
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "slot": range(tile_slots(config)),
                "kept": range(len(KEPT_CHOICES)),
                "act_word": A_ADDRESS_BITS,
                "first": 1,
                "last": 1,
                "part_base": range(config.mm_tokens),
                "rows": range(lanes_of(config) + 1),
                "has_bias": 1,
                "bank": range(BANKS),
            }
        )


class ConstantLayout(data.StructLayout):
    """One FP32 constant of a row.

    Members:
        bank: as in the steps of the row block
        row: number of the row in its row block
        bias: 1 = the bias of the row, 0 = its scale; a row block without biases writes none
        data: FP32
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"bank": range(BANKS), "row": range(lanes_of(config)), "bias": 1, "data": 32})


class TileWrite(wiring.Signature):
    """Tile writes, from the front's point of view. Always accepted.

    A slot's last write is visible to a step that is accepted in a later cycle than the write.

    Members:
        valid: there is a write in this cycle
        payload: the write
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"valid": Out(1), "payload": Out(TileWriteLayout(config))})


class ConstantsWrite(wiring.Signature):
    """Constants of rows, from the front's point of view. Always accepted, one a cycle.

    All constants of a row block have been written in an earlier cycle than the one in which its last step is offered.

    Members:
        valid: there is a write in this cycle
        payload: the write
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"valid": Out(1), "payload": Out(ConstantLayout(config))})


class ArrayFeed(wiring.Signature):
    """Everything between the front and array and emitter, from the front's point of view.

    Members:
        tile: tile writes
        steps: steps, in the order of slots
        freed: pulse from the array: the oldest slot in use is free again (its last read has been made)
        constants: scales and biases of rows
        bank_free: a pulse from the emitter for each bank: it is no longer in use
        bank: of the CONTEXT sum that is being accumulated or emitted
        fresh: that sum is still zero, because no value row has been added since it was cleared
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "tile": Out(TileWrite(config)),
                "steps": Out(stream.Signature(StepLayout(config))),
                "freed": In(1),
                "constants": Out(ConstantsWrite(config)),
                "bank_free": In(BANKS),
                "bank": Out(range(BANKS)),
                "fresh": Out(1),
            }
        )
