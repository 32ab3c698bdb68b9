# SPDX-License-Identifier: Apache-2.0
"""The demo models on stories that nobody trained on, and how long ``make demo`` takes.

Needs the text they were trained on, ``$CATENARY_DATA/text/tinystories_train_2MiB.txt``; without it, only the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import catenary
from benchmarks.record import record

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m benchmarks.bench_demo"
SEPARATOR = "<|endoftext|>"
HELD_OUT = 150


def held_out(text: str) -> str:
    """The last complete stories of the text; what stands behind the last separator is cut off."""
    stories = text.split(SEPARATOR)[:-1]
    return SEPARATOR.join(stories[-HELD_OUT:])


def bits_per_byte(model: str, device: str, weight_bits: int = 8, sparsity: str = "none") -> float:
    """Score a demo model on the held-out stories."""
    text = held_out((data / "text" / "tinystories_train_2MiB.txt").read_text())
    source = catenary.load(ROOT / "models" / model)
    if device != "graph-fp32":
        source = catenary.compile(source, weight_bits=weight_bits, sparsity=sparsity)
    tokenizer = catenary.tokenizer(source)
    assert tokenizer is not None
    with catenary.open_device(device, source) as engine:
        return catenary.evaluate(engine, tokenizer, text).bits_per_byte


def main() -> None:
    """Measure and record."""
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "tools" / "demo.py")], check=True, stdout=subprocess.DEVNULL)
    record("demo.seconds", time.perf_counter() - started, "s", "wall", COMMAND)
    if not (data / "text").is_dir():
        print(f"no text in {data}: held-out figures are left out")
        return
    record("demo.dense.bits_per_byte", bits_per_byte("demo-dense", "graph-fp32"), "bits", "wall", COMMAND)
    sparse = bits_per_byte("demo-sparse", "iss", weight_bits=4, sparsity="8:16")
    record("demo.sparse_w4.bits_per_byte", sparse, "bits", "wall", COMMAND)
    training = json.loads((ROOT / "models" / "demo-moe" / "training.json").read_text())
    moe = training["held_out_bits_per_byte"]["fp32"]
    command = "python tools/train_demo.py --text tinystories_train_2MiB.txt --out models --model moe"
    record("demo.moe.bits_per_byte", moe, "bits", "wall", command, machine=training["machine"])


data = Path(os.environ.get("CATENARY_DATA", ROOT.parent / "shared" / "data"))

if __name__ == "__main__":
    main()
