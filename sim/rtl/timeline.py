# SPDX-License-Identifier: Apache-2.0
"""What the units executed, as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the Trace Event Format's JSON: one track per unit, one complete event per instruction. Its time stamps are
microseconds there; here a microsecond stands for a cycle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def write_timeline(
    path: Path, slices: NDArray[Any], units: Sequence[str], instructions: Mapping[int, str], name: str
) -> None:
    """Write a timeline.

    Args:
        path: file to write.
        slices: from :meth:`catenary.sim.rtl.simulator.Simulator.slices`.
        units: names of the tracks.
        instructions: disassembly by program counter; its first word is the mnemonic.
        name: of the whole.

    Raises:
        OSError: the file cannot be written.
    """
    events: list[dict[str, Any]] = [_about("process_name", 0, name)]
    events += [_about("thread_name", index, unit) for index, unit in enumerate(units)]
    events += [
        {"name": "thread_sort_index", "ph": "M", "pid": 0, "tid": index, "args": {"sort_index": index}}
        for index in range(len(units))
    ]
    for begin, end, unit, pc in slices.tolist():
        text = instructions.get(pc, "")
        mnemonic = text.split(maxsplit=1)[0] if text else "?"
        span = {"ts": begin, "dur": end - begin, "pid": 0, "tid": unit}
        events.append({"name": f"{mnemonic} @{pc}", "ph": "X", **span, "args": {"pc": pc, "instruction": text}})
    path.write_text(json.dumps({"displayTimeUnit": "ns", "traceEvents": events}), encoding="utf-8")


def _about(kind: str, track: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": track, "args": {"name": name}}
