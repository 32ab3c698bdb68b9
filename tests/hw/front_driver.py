# SPDX-License-Identifier: Apache-2.0
"""A test bench around the stream front: a stream FIFO, a tile ring and banks, all with random stalls."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from catenary.hw.buffers.signatures import A_LATENCY
from catenary.hw.matrix.signatures import BANKS, fill_groups, groups_of, lanes_of, tile_slots
from catenary.hw.stream.front import StreamFront
from catenary.isa.opcodes import Opcode
from catenary.isa.tensors import BLOCK
from tests.hw.compiled import Compiled


def words_of(value):
    """A field as an array, however wide it is."""
    return np.array([value], np.uint64) if isinstance(value, int) else value


@dataclass
class Step:
    """A step that the array has taken, with what the slot held then."""

    weights: np.ndarray
    index: np.ndarray
    kept: int
    act_word: int
    first: int
    last: int
    part_base: int
    rows: int
    has_bias: int
    bank: int


@dataclass
class Result:
    """What one instruction handed over.

    ``constants`` are snapshots of (scales, biases) at the last step of each row block.
    """

    steps: list[Step] = field(default_factory=list)
    constants: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    fault: int = 0
    cycles: int = 0
    tile_writes: int = 0
    fresh: int = 0


class FrontDriver:
    """Runs instructions on a compiled :class:`StreamFront`.

    ``pace`` is the probability that a partner is willing in a cycle.
    """

    def __init__(self, config, seed, pace=0.7, model=None):
        self.config, self.pace = config, pace
        self.model = model or Compiled(StreamFront(config))
        self.rng = np.random.default_rng(seed)
        self.lines: deque = deque()
        self.codes = np.zeros((1 << 16, BLOCK), np.uint8)
        self.code_words = config.act_bytes // BLOCK
        self.reset()

    def reset(self):
        m = self.model
        m.reset()
        for name in ("start", "lines.valid", "feed.steps.ready", "feed.freed", "feed.bank_free", "a_read.valid"):
            m.poke(name, 0)
        m.poke("a_read.request.ready", 0)
        m.poke("a_read.fault", 0)
        self.lines.clear()
        shape = tile_slots(self.config), lanes_of(self.config)
        self.weights, self.index = np.zeros(shape, np.int8), np.zeros(shape, np.int64)
        self.constants = np.zeros((BANKS, 2, lanes_of(self.config)), np.uint32)  # bank, bias, row
        self.in_use: deque[int] = deque()  # slots of steps that the array has not finished
        self.emitting: deque[int] = deque()  # banks whose last step has been taken
        self.next_slot = 0
        self.answers: deque = deque([None] * A_LATENCY)
        self.line_held = False

    def load(self, data):
        """Push the bytes of one load, padded with zeros to whole lines."""
        width = self.config.line_bytes
        padded = np.zeros(-(-len(data) // width) * width, np.uint8)
        padded[: len(data)] = data
        lines = padded.reshape(-1, width)
        for number, line in enumerate(lines):
            words = line.view("<u4")
            self.lines.append((words if width > 8 else int(line.view("<u8")[0]), int(number == len(lines) - 1)))

    def willing(self):
        return self.pace >= 1 or self.rng.random() < self.pace

    def run(self, opcode, limit=20_000, **fields):
        """Execute one instruction; returns what it handed over."""
        m, result = self.model, Result()
        name = Opcode(opcode).name.lower()
        emits = opcode is Opcode.CONTEXT and fields.get("emit") and fields.get("tokens")
        for key in (k for k in m.fields if k.startswith(f"command.body.{name}.")):
            m.poke(key, int(fields.pop(key.rsplit(".", 1)[1], 0)))
        assert not fields, fields
        m.poke("command.opcode", opcode.value)
        m.poke("start", 1)
        context = opcode is Opcode.CONTEXT
        for cycle in range(limit):
            finished = self.cycle(result, context)
            m.poke("start", 0)
            if finished or result.fault:
                result.cycles = cycle
                break
        else:
            raise AssertionError(f"{opcode} did not finish in {limit} cycles")
        result.fresh = m.peek("feed.fresh")
        if emits and not result.fault and not any(step.last for step in result.steps):
            self.emitting.append(m.peek("feed.bank"))  # sums of earlier instructions, or zeros
        for _ in range(100):  # the array finishes, and nothing else happens
            if result.fault or not (self.in_use or self.emitting):
                break
            writes = result.tile_writes, len(result.steps)
            assert not self.cycle(result, context)
            assert writes == (result.tile_writes, len(result.steps))
        return result

    def cycle(self, result, context):
        """One clock cycle; returns whether the instruction finished in it."""
        m = self.model
        # Inputs.
        if self.lines and not self.line_held and self.willing():
            data, last = self.lines[0]
            m.poke("lines.payload.data", data)
            m.poke("lines.payload.last", last)
            self.line_held = True
        m.poke("lines.valid", int(self.line_held))
        m.poke("feed.steps.ready", int(self.willing()))
        freed = bool(self.in_use) and self.willing()
        m.poke("feed.freed", int(freed))
        if freed:
            self.in_use.popleft()
        free = 0
        if self.emitting and self.rng.random() < self.pace / 4:
            free = 1 << self.emitting.popleft()
        m.poke("feed.bank_free", free)
        m.poke("a_read.request.ready", int(self.willing()))
        answer = self.answers.popleft()
        m.poke("a_read.valid", int(answer is not None))
        m.poke("a_read.fault", int(answer is not None and answer >= self.code_words))
        if answer is not None:
            m.poke("a_read.data", self.codes[answer].view("<u4"))

        # Outputs.
        asked = m.peek("a_read.request.valid") and m.peek("a_read.request.ready")
        self.answers.append(m.peek("a_read.request.payload") if asked else None)
        if self.line_held and m.peek("lines.ready"):
            self.lines.popleft()
            self.line_held = False
        if m.peek("feed.steps.valid") and m.peek("feed.steps.ready"):
            self._step(result, context)
        if m.peek("feed.tile.valid"):
            result.tile_writes += 1
            slot, row, mask = (self._get(f"feed.tile.payload.{part}") for part in ("slot", "row", "mask"))
            assert slot not in self.in_use, "a slot in use is written"
            assert mask
            weights = m.peek("feed.tile.payload.weights").view(np.int8).reshape(-1, BLOCK)
            index = words_of(m.peek("feed.tile.payload.index")).view(np.uint8)
            index = np.stack([index & 15, index >> 4], axis=1).reshape(-1, BLOCK)
            for position in range(fill_groups(self.config)):
                group = row * fill_groups(self.config) + position
                if mask >> position & 1 and group < groups_of(self.config):
                    at = slice(group * BLOCK, (group + 1) * BLOCK)
                    self.weights[slot, at], self.index[slot, at] = weights[position], index[position]
        if m.peek("feed.constants.valid"):
            bank, bias, row = (self._get(f"feed.constants.payload.{part}") for part in ("bank", "bias", "row"))
            assert bank not in self.emitting, "constants of a bank in use are written"
            self.constants[bank, bias, row] = m.peek("feed.constants.payload.data")
        if m.peek("fault"):
            result.fault = m.peek("cause")
        finished = m.peek("finished")
        m.step()
        return finished

    def _get(self, name):
        return self.model.peek(name) if name in self.model.fields else 0

    def _step(self, result, context):
        parts = [part for part in Step.__annotations__ if part not in ("weights", "index")]
        values = {part: self._get(f"feed.steps.payload.{part}") for part in parts}
        slot = self._get("feed.steps.payload.slot")
        assert slot == self.next_slot
        self.next_slot = (slot + 1) % tile_slots(self.config)
        self.in_use.append(slot)
        step = Step(self.weights[slot].copy(), self.index[slot].copy(), **values)
        if step.first:
            assert step.bank not in self.emitting, "sums of a bank in use are overwritten"
        if step.last:
            if not context:
                result.constants.append(tuple(self.constants[step.bank].copy()))
            self.emitting.append(step.bank)
        result.steps.append(step)

    @property
    def empty(self):
        """No line is left in the FIFO or in the front."""
        return not self.lines and bool(self.model.peek("stream_empty"))


@dataclass
class Rebuilt:
    """What the row blocks that MM or MV handed over say.

    Attributes:
        weights: int8 [rows, depth].
        scales: of rows, as bits.
        biases: by row block, as bits or ``None``.
        added: int64 [rows, depth]: the sum of the outliers of each weight.
        outlier_steps: by row block, the columns' blocks of its outlier steps.
    """

    weights: np.ndarray
    scales: np.ndarray
    biases: list
    added: np.ndarray
    outlier_steps: list[list[int]]


def rebuild(result, depth):
    """The :class:`Rebuilt` row blocks of what MM or MV handed over."""
    matrix, scales, biases, sums, slots = [], [], [], [], []
    blocks: list[Step] = []
    constants = iter(result.constants)
    for step in result.steps:
        assert step.first == (not blocks)
        blocks.append(step)
        if not step.last:
            continue
        kept = 1 << step.kept
        rows = np.zeros((step.rows, -(-depth // BLOCK) * BLOCK), np.int8)
        assert all((part.kept, part.bank, part.part_base) == (step.kept, step.bank, 0) for part in blocks)
        single, blocks = np.split(np.array(blocks), [len(blocks) - rows.shape[1] // BLOCK])
        added = np.zeros(rows.shape, np.int64)
        owners = np.arange(step.rows * kept) // kept
        for part in single:
            columns = part.act_word * BLOCK + part.index[: len(owners)]
            np.add.at(added, (owners, columns), part.weights[: len(owners)].astype(np.int64))
            assert not part.weights[len(owners) :].any()
        sums.append(added[:, :depth])
        slots.append([part.act_word for part in single])
        for number, part in enumerate(blocks):
            assert part.act_word == number
            for row in range(step.rows):
                lanes = slice(row * kept, (row + 1) * kept)
                assert len(set(part.index[lanes].tolist())) == kept
                rows[row, number * BLOCK + part.index[lanes]] = part.weights[lanes]
        assert not rows[:, depth:].any()
        matrix.append(rows[:, :depth])
        row_scales, row_bias = next(constants)
        scales.append(row_scales[: step.rows])
        biases.append(row_bias[: step.rows] if step.has_bias else None)
        blocks = []
    assert not blocks
    return Rebuilt(np.concatenate(matrix), np.concatenate(scales), biases, np.concatenate(sums), slots)


def key_rows(result, rows, depth, config, most=None):
    """Keys int8 [rows, depth] that SCORE handed over; ``most`` in a tile, by default as many as there are groups."""
    groups, keys, tile = groups_of(config), [], []
    most = most or groups
    for step in result.steps:
        assert step.first == (not tile)
        assert (step.act_word, step.kept, step.part_base) == (len(tile), 4, 0)
        assert (step.index.reshape(-1, BLOCK)[: min(most, rows - len(keys))] == np.arange(BLOCK)).all()
        tile.append(step.weights.reshape(groups, BLOCK))
        if step.last:
            assert step.rows == min(most, rows - len(keys))
            whole = np.concatenate(tile, axis=1)[: step.rows]
            assert not whole[:, depth:].any()
            keys.extend(whole[:, :depth])
            tile = []
    assert not tile
    return np.array(keys).reshape(-1, depth)


def value_rows(result, rows, depth, first, parts, config, fresh, emit):
    """Values int8 [rows, depth] that CONTEXT handed over; ``parts`` = 2 * tokens."""
    lanes = lanes_of(config)
    turns = -(-depth // lanes)
    assert len(result.steps) == rows * turns
    values = np.zeros((rows, turns * lanes), np.int8)
    for number, step in enumerate(result.steps):
        row, turn = divmod(number, turns)
        assert (step.kept, step.part_base) == (0, turn * parts)
        assert step.act_word * BLOCK + step.index[0] == first + row
        channels = min(lanes, depth - turn * lanes)
        assert (step.index[:channels] == step.index[0]).all()
        assert step.first == (fresh and row == 0)
        assert step.last == (emit and number == len(result.steps) - 1)
        values[row, turn * lanes : turn * lanes + channels] = step.weights[:channels]
    return values[:, :depth]
