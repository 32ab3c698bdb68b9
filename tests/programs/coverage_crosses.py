# SPDX-License-Identifier: Apache-2.0
"""The crosses of functional coverage: instruction by mode, place, size and memory; tokens, loops, streams and errors.

Each has a function that names the points of what was executed, and one that names the points that an accelerator can
have. Where it is possible the second one applies the first to all legal instructions.
"""

from __future__ import annotations

from tests.programs import coverage_order as order
from tests.programs import coverage_places as places
from tests.programs import coverage_transfers as transfers
from tests.programs.coverage import Cross

each = places.of_executions
CROSSES: tuple[Cross, ...] = (
    Cross("modes", ("instruction and mode", "places in V", "memory"), places.alignments, each(places.alignment)),
    Cross("residues", ("instruction", "place", "first lane", "memory"), places.residues, each(places.residue)),
    Cross("operands", ("instruction", "operand", "kind", "memory"), places.operands, each(places.operand)),
    Cross("sizes", ("instruction", "size", "class", "memory"), places.sizes, each(places.size)),
    Cross("strides", ("instruction", "place", "kind", "memory"), places.strides, each(places.stride)),
    Cross(
        "rows",
        ("transfer", "layout", "lines", "memory"),
        transfers.all_rows(transfers.transfer),
        each(transfers.transfer),
    ),
    Cross(
        "row_ends",
        ("transfer", "bytes of the last line"),
        transfers.all_rows(transfers.row_end),
        each(transfers.row_end),
    ),
    Cross("bursts", ("transfer", "bursts", "memory"), transfers.bursts, each(transfers.burst)),
    Cross(
        "streams",
        ("length against the FIFO", "memory"),
        lambda config: [("one line",), ("shorter",), ("as long",), ("longer",)],
        each(transfers.stream),
    ),
    Cross("weights", ("bits", "N:M", "parts", "memory"), transfers.blocks, transfers.block_hits),
    Cross(
        "blocks", ("instruction", "bits", "N:M", "rows", "groups", "columns"), transfers.shapes, transfers.shape_hits
    ),
    Cross("tokens", ("giver", "taker", "memory"), order.pairs, order.pair_hits),
    Cross("token_sets", ("unit", "field", "units", "memory"), order.all_sets, order.set_hits),
    Cross("orders", ("unit", "instruction", "next one", "memory"), order.orders, order.order_hits),
    Cross("loops", ("depth", "turns", "end", "memory"), order.loops, order.loop_hits),
    Cross("nesting", ("instruction", "depth", "memory"), order.nestings, order.nesting_hits),
    Cross("waits", ("unit", "what for", "memory"), order.stalls),
    Cross("errors", ("cause", "memory"), order.causes),
)
"""Everything that is counted."""
