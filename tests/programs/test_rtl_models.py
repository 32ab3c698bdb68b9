# SPDX-License-Identifier: Apache-2.0
"""Language models on the hardware design: the simulated RTL writes what the instruction-set simulator writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import catenary
from catenary.compiler.pipeline import compile_graph
from catenary.isa.config import AcceleratorConfig
from catenary.isa.program import Program
from catenary.runtime.devices.reference import ReferenceEngine
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.runtime.host import ProgramEngine
from catenary.sim.rtl.memory_model import MemoryModel
from tests.graphs import quantised_form, random_graph, random_llama_graph
from tests.programs.support import ACCELERATORS, SMALL, compiled, iss, outcome, prompt

MODELS = Path(__file__).resolve().parents[2] / "models"
PROMPTS = (
    "Once upon a time",
    "The sun was hot and",
    '"Mom, can we go to the park?" asked Ben.',
    " ".join(["One day, a little girl named Lily found a needle in her room. She knew it was difficult to play."] * 2),
)
"""The last one takes several tiles of tokens."""

ODD = replace(
    SMALL, name="odd", port_bytes=(8, 4), chains=3, chain_length=32, mm_tokens=7, stream_atom=4, stream_bytes=1536,
    vector_lanes=2, queue_depth=3,
)  # fmt: skip
TINY = replace(
    SMALL, name="tiny", memory_bytes=1 << 20, port_bytes=(4, 8), chains=2, mm_tokens=7, packed=True, stream_atom=4,
    stream_bytes=96, vector_words=4096, vector_lanes=2, act_bytes=8192, desc_words=128, queue_depth=2,
)  # fmt: skip

every_accelerator = pytest.mark.parametrize("accelerator", ["small", "hbm-slice", "uneven"])


def rtl(program: Program, model: MemoryModel) -> ProgramEngine:
    return ProgramEngine("rtl", "rtl", program, RtlDevice(program.config, RtlOptions(model=model)))


def assert_equal(program: Program, prompts: list[list[int]], new: int) -> None:
    """Each prompt continued, one after the other without reset in between."""
    with iss(program) as simulator, rtl(program, MemoryModel.unthrottled()) as core:
        for ids in prompts:
            assert outcome(core, ids, new) == outcome(simulator, ids, new), f"prompt {ids}"


@pytest.mark.parametrize("form", ["w8", "w4", "w4-8:16", "w4-mixed"])
def test_random_llama(form: str) -> None:
    program = compiled(random_llama_graph(3, context=40), form, TINY)
    assert_equal(program, [prompt(program, length) for length in (1, 17)], 3)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_a_prompt_and_slow_memory_change_nothing(chunk: int) -> None:
    program = compiled(random_llama_graph(3, context=40), "w4", TINY)
    ids = prompt(program, 19)
    with iss(program) as simulator:
        expected = outcome(simulator, ids, 2)
    with rtl(program, MemoryModel(share=0.5, stall=0.1, seed=chunk)) as core:
        assert outcome(core, ids, 2, chunk) == expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_accelerator
def test_random_decoders_with_tables_and_outliers(accelerator: str) -> None:
    """What the reference, the simulator and the core write."""
    for seed in range(8):
        graph = quantised_form(random_graph(seed), seed, (8, 4, 3, 2)[seed % 4], corrected=True)
        program = compile_graph(graph, ACCELERATORS[accelerator])
        prompts = [prompt(program, length, seed) for length in (1, 19)]
        assert_equal(program, prompts, 2)
        with iss(program) as simulator, ReferenceEngine(program) as reference:
            for ids in prompts:
                assert outcome(simulator, ids, 2) == outcome(reference, ids, 2), f"seed {seed}"


DEMO = {"dense-w8": ("demo-dense", 8, "none"), "dense-w4": ("demo-dense", 4, "none")}
DEMO["sparse-w4-8:16"] = ("demo-sparse", 4, "8:16")


def demo(name: str, config: AcceleratorConfig) -> tuple[Program, list[list[int]]]:
    """A demo model's program and the ids of the prompts."""
    model, bits, sparsity = DEMO[name]
    program = catenary.compile(MODELS / model, accel=config, weight_bits=bits, sparsity=sparsity)
    tokenizer = catenary.tokenizer(program)
    assert tokenizer is not None
    return program, [tokenizer.encode(text) for text in PROMPTS]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_accelerator
@pytest.mark.parametrize("name", DEMO)
def test_four_stories_of_64_tokens(name: str, accelerator: str) -> None:
    program, prompts = demo(name, ACCELERATORS[accelerator])
    if accelerator == "small":
        assert max(len(ids) for ids in prompts) > 2 * SMALL.mm_tokens
    assert_equal(program, prompts, 64)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_accelerator
@pytest.mark.parametrize("bits", [8, 4])
def test_four_stories_of_stories260k(data_dir: Path, accelerator: str, bits: int) -> None:
    program = catenary.compile(data_dir / "stories260K", accel=accelerator, weight_bits=bits)
    assert_equal(program, [[1], prompt(program, 5), prompt(program, 17), prompt(program, 50)], 64)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", DEMO)
def test_odd_sizes(name: str) -> None:
    program, prompts = demo(name, ODD)
    assert_equal(program, prompts[-2:], 8)


@pytest.mark.slow
def test_counters_add_up() -> None:
    program, prompts = demo("sparse-w4-8:16", SMALL)
    with rtl(program, MemoryModel()) as core:
        outcome(core, prompts[0], 4)
        counters = core.counters()
    assert counters.cycles is not None
    assert counters.bytes_read is not None
    assert counters.bytes_read >= 4 * program.weight_bytes
    for name, unit in counters.units.items():
        stalled = sum(unit.stalled.values())
        assert 0 <= stalled <= unit.busy, name
        assert unit.busy + unit.idle == counters.cycles, name
