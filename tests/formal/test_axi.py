# SPDX-License-Identifier: Apache-2.0
"""AXI4 rules (ARM IHI 0022) of the masters: what is offered stays, bursts keep to 4 KB, nothing is lost or unasked for.

The other side of the port does whatever the protocol allows it to. Masters may be told to abort in any cycle.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Mux, Signal, Value

from catenary.hw.axi import BOUNDARY
from catenary.hw.memory import bursts, read_master, write_master
from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove
from tests.hw.fp_support import refusal


def address_rules(h: Harness, axi: Any, prefix: str, data_bytes: int) -> None:
    """A channel of addresses: offers stay, and no burst crosses a boundary of 4 KB."""

    def signal(name: str) -> Value:
        return getattr(axi, prefix + name)

    valid, address, length = signal("valid"), signal("addr"), signal("len")
    waits = h.past(valid & ~signal("ready"), f"{prefix}_waits")
    h.implies(f"{prefix}valid stays", waits, valid)
    for name in ("addr", "len", "size", "burst", "id", "cache", "prot", "lock", "qos", "region"):
        now = signal(name)
        bits = now.as_value() if hasattr(now, "as_value") else now
        h.claim(f"{prefix}{name} stays", ~waits | (bits == h.past(bits, prefix + name)))
    last = address + length * data_bytes + data_bytes - 1
    h.implies(f"{prefix}: no burst crosses 4 KB", valid, (address // BOUNDARY) == (last // BOUNDARY))
    h.claim(f"{prefix}: aligned", ~valid | (address % data_bytes == 0))


class Ranges:
    """Follows a range of beats through the bursts that it becomes; ``left`` of them are to come, ``expected`` first."""

    def __init__(self, h: Harness, command: Any, beats: int, clear: Value) -> None:
        m = h.m
        payload = command.payload
        h.keeps(command, "command")
        h.assume(~command.valid | (payload.first + payload.count <= beats))
        self.expected, self.left = (
            Signal(range(beats + 1), name="expected"),
            Signal(range(beats + 1), name="beats_left"),
        )
        self.taken, self.length = Signal(name="burst_taken"), Signal(range(257), name="burst_beats")
        with m.If(self.taken):
            m.d.sync += [self.expected.eq(self.expected + self.length), self.left.eq(self.left - self.length)]
        with m.If(command.valid & command.ready):
            m.d.sync += [self.expected.eq(payload.first), self.left.eq(payload.count)]
        with m.If(clear):
            m.d.sync += self.left.eq(0)

    def lemmas(self, h: Harness, inside: Any, path: str, most: int, beats: int) -> None:
        """How a splitter inside a master stands to the bursts that the master has offered."""
        now, due = Signal(range(2 * beats), name="expected_now"), Signal(range(2 * beats), name="left_now")
        valid, payload = inside[f"{path}bursts__valid"], inside[f"{path}bursts__payload"]
        first, length = payload[: (beats - 1).bit_length()], payload[(beats - 1).bit_length() :]
        size, begin, left = Signal(range(most + 1), name="size"), inside[f"{path}$like@sync"], inside[f"{path}left"]
        h.m.d.comb += [
            now.eq(self.expected + Mux(self.taken, self.length, 0)),
            due.eq(self.left - Mux(self.taken, self.length, 0)),
            size.eq(Mux(valid, length + 1, 0)),
        ]
        h.claim("what is left", due == left + size)
        h.claim("where a burst begins", ~valid | (first == now))
        h.claim("where the next one begins", (left == 0) | (begin == now + size))
        h.claim("multiples", ~valid | (first % most + length < most))
        h.claim("within memory", now + due <= beats)


def splitter(beats: int, most: int, module: ModuleType = bursts) -> Harness:
    """The splitter between any commands and whoever takes bursts."""
    h = Harness()
    m, dut = h.m, module.BurstSplitter(beats, most)
    inside = h.add(dut, "dut")
    payload = dut.bursts.payload
    ranges = Ranges(h, dut.command, beats, dut.clear)
    m.d.comb += [ranges.taken.eq(dut.bursts.valid & dut.bursts.ready), ranges.length.eq(payload.length + 1)]
    waits = h.past(dut.bursts.valid & ~dut.bursts.ready & ~dut.clear, "waits")
    h.implies("an offer stays valid", waits, dut.bursts.valid)
    h.claim("an offer stays as it is", ~waits | (payload.as_value() == h.past(payload, "payload")))
    h.implies("bursts follow each other", dut.bursts.valid, payload.first == ranges.expected)
    h.claim("bursts end within the range", ~dut.bursts.valid | (payload.length < ranges.left))
    h.claim("no burst crosses a multiple", ~dut.bursts.valid | (payload.first % most + payload.length < most))
    h.claim("idle when all are taken", dut.idle == (ranges.left == 0))
    h.claim("what is left", ranges.left == inside["left"] + Mux(dut.bursts.valid, payload.length + 1, 0))
    h.cover("a whole burst", payload.length == most - 1)
    after = ranges.expected + Mux(dut.bursts.valid, payload.length + 1, 0)
    h.claim(
        "where it begins", (inside["left"] == 0) | (inside["$like@sync"] == after % (1 << len(inside["$like@sync"])))
    )
    h.claim("within memory", ranges.expected + ranges.left <= beats)
    return h


@pytest.mark.parametrize(("beats", "most"), [(1024, 16), pytest.param(1 << 22, 64, marks=pytest.mark.slow)])
def test_splitter(record: Record, beats: int, most: int) -> None:
    prove(
        record,
        f"BurstSplitter({beats}, {most})",
        "bursts make up the range, in order, and end at multiples of their limit; offers stay until they are taken",
        partial(splitter, beats, most),
        steps=1,
        controls={
            "one beat too many before a multiple": partial(
                splitter, 64, 4, mutant(bursts, ("block.eq((1 << low) - first[:low])", "block.eq(1 << low)"))
            ),
            "the next burst begins elsewhere": partial(
                splitter, 64, 4, mutant(bursts, ("Cat(Const(0, low), first[low:] + 1)", "first + 1"))
            ),
        },
    )


def reader(data_bytes: int, beats: int, most: int, depth: int, module: ModuleType = read_master) -> Harness:
    """A read master between commands, a port that answers what it is asked, and whoever takes beats."""
    h = Harness()
    m, dut = h.m, module.ReadMaster(data_bytes, beats, max_burst=most, depth=depth)
    inside = h.add(dut, "dut")
    axi = dut.axi
    address_rules(h, axi, "ar", data_bytes)
    stopped = Signal()
    m.d.comb += stopped.eq(dut.abort | inside["draining"])
    ranges = Ranges(h, dut.command, beats, stopped)
    asks = axi.arvalid & axi.arready
    fresh = axi.arvalid & ~h.past(axi.arvalid & ~axi.arready, "offered")  # a burst is offered for the first time
    first = Signal(range(beats))
    m.d.comb += [
        ranges.taken.eq(fresh & ~h.past(stopped, "stopped")),
        ranges.length.eq(axi.arlen + 1),
        first.eq(axi.araddr // data_bytes),
    ]
    # The other side owes beats of bursts that it has accepted, from the next cycle on.
    accepted = Signal(range(depth + most + 1))
    m.d.sync += accepted.eq(accepted + Mux(asks, axi.arlen + 1, 0) - (axi.rvalid & axi.rready))
    h.assume(~axi.rvalid | (accepted != 0))

    fifo, owed, credit = inside["fifo.level"], inside["owed"], inside["credit"]
    put = axi.rvalid & ~stopped
    h.implies("every beat finds room", put, inside["fifo.w_rdy"] & axi.rready)
    h.implies("idle: nothing is owed or asked for", dut.idle, ~axi.arvalid & (accepted == 0))
    h.claim("bursts follow each other", ~ranges.taken | ((first == ranges.expected) & (axi.arlen < ranges.left)))
    h.cover("drains with beats to come", inside["draining"] & (accepted == most))
    h.cover("full", fifo == depth)
    offered = Signal(range(most + 1))
    m.d.comb += offered.eq(Mux(axi.arvalid, axi.arlen + 1, 0))
    h.claim("never more asked for than there is room for", accepted + offered + fifo <= depth)
    h.claim("owed", owed == accepted + offered)
    h.claim("credit", inside["draining"] | (credit + owed + fifo == depth))
    h.claim("room is not promised twice", inside["draining"] | (credit <= depth))
    ranges.lemmas(h, inside, "splitter.", most, beats)
    h.claim("bursts keep to multiples", ~axi.arvalid | (first % most + axi.arlen < most))
    h.claim("nothing behind a stop", ~h.past(stopped, "stop") | (inside["splitter.left"] == 0))
    inner, shown = inside["fifo.inner_level"], inside["fifo.r_rdy"]
    h.claim("FIFO", (inner <= depth - 1) & (shown | (inner < depth - 1)))
    return h


def test_a_fifo_that_would_lose_beats_is_refused() -> None:
    make = partial(read_master.ReadMaster, max_burst=2, depth=2)
    assert refusal(make, 1, 16) == "depth must be at least 3 beats, not 2"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("data_bytes", "beats", "most", "depth"), [(4, 1024, 64, 256), (64, 256, 16, 24), (1, 16, 2, 3)]
)
def test_read_master(record: Record, data_bytes: int, beats: int, most: int, depth: int) -> None:
    wrong = {
        "an offer is withdrawn": ("with m.If(axi.arready):", "with m.If(axi.arready | stop):"),
        "asks with too little credit": ("(credit > burst.length)", "(credit >= burst.length)"),
        "forgets what is owed on abort": (
            "(owed == 0))\n        with m.If(self.abort)",
            "1)\n        with m.If(self.abort)",
        ),
        "begins again too early": ("draining & ~axi.arvalid & (owed == 0)", "draining & ~axi.arvalid"),
    }
    small = partial(reader, 4, 16, 2, 4)
    prove(
        record,
        f"ReadMaster({data_bytes}, {beats}, max_burst={most}, depth={depth})",
        "offers stay, bursts make up the range and keep to 4 KB, every beat finds room, idle: nothing is owed",
        partial(reader, data_bytes, beats, most, depth),
        steps=2,
        reached=small,
        controls={name: partial(small, mutant(read_master, change)) for name, change in wrong.items()},
    )


def writer(
    data_bytes: int,
    beats: int,
    most: int,
    depth: int,
    waiting: int,
    module: ModuleType = write_master,
    *,
    watched: bool = False,
) -> Harness:
    """A write master between commands with their data and a port that answers what it has got.

    Args:
        data_bytes: width of the port.
        beats: beats of the memory.
        most: beats of a burst.
        depth: beats of the FIFO.
        waiting: bursts that wait for their response.
        module: where the master comes from.
        watched: the prover watches one burst, from the offer of its address to its last beat.
    """
    h = Harness()
    m, dut = h.m, module.WriteMaster(data_bytes, beats, max_burst=most, depth=depth, bursts=waiting)
    inside = h.add(dut, "dut")
    axi = dut.axi
    address_rules(h, axi, "aw", data_bytes)
    draining, stopped = inside["$signal@sync"], inside["stop"]
    ranges = Ranges(h, dut.command, beats, stopped)
    h.keeps(dut.data, "data")
    fresh = Signal()
    m.d.comb += [
        fresh.eq(axi.awvalid & ~h.past(axi.awvalid & ~axi.awready, "offered")),
        ranges.taken.eq(fresh),
        ranges.length.eq(axi.awlen + 1),
    ]
    first = axi.awaddr // data_bytes
    h.claim("bursts follow each other", ~fresh | ((first == ranges.expected) & (axi.awlen < ranges.left)))

    waits = h.past(axi.wvalid & ~axi.wready, "w_waits")
    h.implies("wvalid stays", waits, axi.wvalid)
    for name in ("wdata", "wstrb", "wlast"):
        now = getattr(axi, name)
        h.claim(f"{name} stays", ~waits | (now == h.past(now, name)))

    # What the other side has seen: addresses, last beats, and its responses to bursts of which it has both.
    addresses, lasts = (Signal(range(waiting + 2), name=name) for name in ("addresses", "lasts"))
    beat, answer = axi.wvalid & axi.wready, axi.bvalid & axi.bready
    asked = axi.awvalid & axi.awready
    # Both less the bursts that are over: an answer takes one of each away.
    m.d.sync += [
        addresses.eq(addresses + asked - answer),
        lasts.eq(lasts + (beat & axi.wlast) - answer),
    ]
    h.assume(~axi.bvalid | ((addresses != 0) & (lasts != 0)))
    open_ = addresses + axi.awvalid  # bursts of which the address has been offered, and that are not answered
    h.claim("no more bursts wait than may", open_ <= waiting)
    h.implies("no beat before its address is offered", axi.wvalid, lasts < open_)
    h.claim("every response is expected", axi.bready)
    h.implies("idle: nothing is open", dut.idle, (open_ == 0) & ~axi.wvalid)

    h.cover("drains in a burst", draining & axi.wvalid & ~axi.wlast)
    drained = h.past(draining, "drains") & ~waits & axi.wvalid
    h.implies("no strobe once it drains", drained, axi.wstrb == 0)
    ends = axi.wvalid & axi.wlast
    h.claim("unanswered", inside["unanswered"] == open_)
    h.claim("offered", inside["offered"] + lasts + ends == open_)
    h.claim("a burst goes on", ~axi.wvalid | axi.wlast | (inside["offered"] != 0))
    h.claim("bursts keep to multiples", ~axi.awvalid | (first % most + axi.awlen < most))
    h.claim("nothing behind a stop", ~h.past(stopped, "stop") | (inside["splitter.left"] == 0))
    ranges.lemmas(h, inside, "splitter.", most, beats)
    if watched:
        _watch(h, axi, fresh, addresses - lasts, most)
    return h


def _watch(h: Harness, axi: Any, fresh: Value, before: Value, most: int) -> None:
    """Watch a burst: as many last beats as there are unfinished bursts before it pass before its own ones."""
    m = h.m
    beat = axi.wvalid & axi.wready
    watch = h.free(1, "watch")
    watching, ahead = Signal(), Signal(len(before))
    size, done = Signal(range(most + 1)), Signal(range(most + 1))
    with m.If(fresh & watch & ~watching):
        m.d.sync += [watching.eq(1), size.eq(axi.awlen + 1), ahead.eq(before), done.eq(0)]
        with m.If(beat):
            m.d.sync += [ahead.eq(before - axi.wlast), done.eq(before == 0)]
            with m.If((before == 0) & axi.wlast):
                m.d.sync += watching.eq(0)
    with m.Elif(watching & beat):
        with m.If(ahead != 0):
            m.d.sync += ahead.eq(ahead - axi.wlast)
        with m.Else():
            m.d.sync += done.eq(done + 1)
            with m.If(axi.wlast):
                m.d.sync += watching.eq(0)
    now = Signal()
    m.d.comb += now.eq(watching & axi.wvalid & (ahead == 0))
    h.implies("WLAST is with the last beat of the burst, and with no other", now, axi.wlast == (done + 1 == size))
    at_once = fresh & axi.wvalid & (before == 0)
    h.claim("WLAST of a burst whose first beat comes with its address", ~at_once | (axi.wlast == (axi.awlen == 0)))
    h.cover("a watched burst of full length ends", now & (size == most) & axi.wlast)


_PORTS = [(4, 1024, 16, 64, 16), (64, 256, 16, 24, 16), (1, 16, 2, 10, 2)]
_WRITER_WRONG = {
    "an offer is withdrawn": ("with m.If(axi.awready):", "with m.If(axi.awready | stop):"),
    "one burst too many waits": ("& (unanswered != self._bursts)", ""),
    "a beat changes while it waits": ("(~axi.wvalid | axi.wready) & (offered != 0)", "(offered != 0)"),
    "strobes while it drains": ("m.d.sync += axi.wstrb.eq(0)", "m.d.sync += axi.wstrb.eq(source.strobe)"),
    "idle too early": ("(left == 0) | draining) & (unanswered == 0)", "(left == 0) | draining)"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("data_bytes", "beats", "most", "depth", "waiting"), _PORTS)
def test_write_master(record: Record, data_bytes: int, beats: int, most: int, depth: int, waiting: int) -> None:
    small = partial(writer, 1, 16, 2, 10, 2)
    prove(
        record,
        f"WriteMaster({data_bytes}, {beats}, max_burst={most}, depth={depth}, bursts={waiting})",
        "offers stay, bursts make up the range and keep to 4 KB, no beat before its address, bursts that wait are "
        "bounded, idle means that all are answered",
        partial(writer, data_bytes, beats, most, depth, waiting),
        steps=2,
        reached=small,
        controls={name: partial(small, mutant(write_master, change)) for name, change in _WRITER_WRONG.items()},
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_last_beats(record: Record) -> None:
    wrong = ("final.eq((left == 1) | (place", "final.eq((left == 2) | (place")
    prove(
        record,
        "WriteMaster(1, 16, max_burst=2, depth=10, bursts=2)",
        "WLAST comes with the last beat of every burst, and with no other",
        partial(writer, 1, 16, 2, 10, 2, watched=True),
        bound=16,
        controls={
            "WLAST is one beat early": partial(writer, 1, 16, 2, 10, 2, mutant(write_master, wrong), watched=True)
        },
    )
