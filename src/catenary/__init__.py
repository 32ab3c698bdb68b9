# SPDX-License-Identifier: Apache-2.0
"""Catenary: run language models on your own FPGA.

Every verb of the command line is one of these functions. They import what they need when they are called, so that
``import catenary`` is quick.

>>> import catenary
>>> program = catenary.compile("path/to/model", weight_bits=8)
>>> tokenizer = catenary.tokenizer(program)
>>> with catenary.open_device("reference", program) as engine:
...     result = catenary.generate(engine, tokenizer.encode("Once upon a time"), max_new_tokens=8)
>>> result.stop_reason
'length'
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catenary.cli.model_check import CheckResult
    from catenary.cli.verilog import VerilogResult
    from catenary.compiler.importers import ImportedModel
    from catenary.isa.config import AcceleratorConfig
    from catenary.isa.program import Program
    from catenary.runtime.bench import BenchResult
    from catenary.runtime.devices import DeviceStatus
    from catenary.runtime.engine import Engine
    from catenary.runtime.evaluate import EvalResult
    from catenary.runtime.generate import Generation
    from catenary.runtime.summary import ProgramSummary
    from catenary.runtime.tokenizer import TextTokenizer

__version__ = "0.1.0"
__all__ = [
    "bench",
    "check",
    "compile",
    "devices",
    "evaluate",
    "generate",
    "inspect",
    "load",
    "open_device",
    "tokenizer",
    "verilog",
]

_CHECKPOINT_FILES = (".json", ".gguf", ".onnx", ".safetensors")


def compile(
    model: str | PathLike[str] | ImportedModel,
    *,
    accel: str | PathLike[str] | AcceleratorConfig = "small",
    weight_bits: int = 8,
    group_size: int | None = None,
    sparsity: str = "none",
    kv_bits: int = 8,
    max_context: int | None = None,
    dummy_weights: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Program:
    """Compile a checkpoint for an accelerator.

    Args:
        model: a checkpoint's path (see :func:`load`), or one that is loaded already.
        accel: a preset's name, a YAML file, or a configuration.
        weight_bits: 8 or 4.
        group_size: weights along K that share a scale, a multiple of 16; by default 128, or 16 where K is below 128.
        sparsity: ``none``, ``8:16``, ``4:16``, ``2:16`` or ``1:16``.
        kv_bits: 8.
        max_context: positions to provide for; by default the model's, at most 4,096. Only for a path.
        dummy_weights: make the weights up from this seed; ``model`` is then a ``config.json``. Only for a path.
        progress: called with the name of what is being done and the share of it that is done.

    Returns:
        The program; :meth:`~catenary.isa.program.Program.save` writes it to a file.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not supported.
        ConfigError: the accelerator is unknown or unsound.
        UsageError: an option is out of range.
        CompileError: the model does not fit the accelerator or the options.

    >>> program = catenary.compile("path/to/model", weight_bits=4, sparsity="8:16")
    >>> program.save("model.cat")
    >>> program.bits_per_weight < 8
    True
    """
    from catenary.boards.loader import load_accelerator
    from catenary.compiler import CompileOptions, compile_model
    from catenary.isa.config import AcceleratorConfig

    options = CompileOptions(weight_bits=weight_bits, group_size=group_size, sparsity=sparsity, kv_bits=kv_bits)
    config = accel if isinstance(accel, AcceleratorConfig) else load_accelerator(fspath(accel))
    imported = _import_model(model, max_context, dummy_weights) if isinstance(model, str | PathLike) else model
    return compile_model(imported, config, options, progress)


def load(
    path: str | PathLike[str], *, max_context: int | None = None, dummy_weights: int | None = None
) -> Program | ImportedModel:
    """Load a program file, or import a checkpoint.

    Args:
        path: a ``.cat`` file, a Hugging Face directory, or, with ``dummy_weights``, a ``config.json``.
        max_context: for a checkpoint: positions to provide for.
        dummy_weights: make the weights up from this seed.

    Raises:
        UsageError: there is nothing at ``path``, or an option is given for a program.
        ProgramError: the program file is damaged or of another version.
        CheckpointError: the checkpoint is damaged or not supported.

    >>> catenary.load("model.cat").isa_version
    1
    >>> catenary.load("path/to/model").architecture
    'LlamaForCausalLM'
    """
    from catenary.isa.errors import UsageError
    from catenary.isa.program import Program

    where = Path(path)
    if not where.exists():
        raise UsageError(f"Program or model must be an existing file or folder, not {fspath(path)!r}")
    if where.is_dir() or where.suffix in _CHECKPOINT_FILES:
        return _import_model(path, max_context, dummy_weights)
    if max_context is not None or dummy_weights is not None:
        raise UsageError(f"max_context and dummy_weights must be given for a checkpoint, not for {fspath(path)!r}")
    return Program.load(where)


def _import_model(path: str | PathLike[str], max_context: int | None, dummy_weights: int | None) -> ImportedModel:
    from catenary.compiler import importers

    return importers.load(path, max_context=max_context, dummy_seed=dummy_weights)


def tokenizer(source: Program | ImportedModel) -> TextTokenizer | None:
    """The tokenizer that a program or a checkpoint carries; ``None`` if it carries none.

    Raises:
        CheckpointError: it is damaged.

    >>> catenary.tokenizer(catenary.load("model.cat")).decode([])
    ''
    """
    from catenary.runtime.tokenizer import tokenizer_of

    return tokenizer_of(source)


def open_device(
    name: str | None,
    source: str | PathLike[str] | Program | ImportedModel,
    *,
    trace: str | PathLike[str] | None = None,
    timeline: str | PathLike[str] | None = None,
    tune: bool = False,
    progress: Callable[[str, float], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Engine:
    """Load a program or a model on a device.

    Args:
        name: one of :func:`devices`; ``None`` stands for ``iss`` for a program and ``graph-fp32`` for a model.
        source: what to run, or its path. A model is compiled with the default options first, except for
            ``graph-fp32``; the program is kept in a cache.
        trace: on ``rtl``: write the waveform of all signals to this ``.vcd`` or ``.fst`` file.
        timeline: on ``rtl``: write what each unit executed when to this JSON file, for ui.perfetto.dev.
        tune: on ``rtl``: if there is no tuned build of the simulation yet, make one with a profile of this program;
            from then on every run uses it. Needs GCC, and not together with ``trace``.
        progress: told of the stages of that compilation, and of building the simulation of hardware.
        warn: told, in one line, when the cache is of no use.

    Returns:
        An engine for :func:`generate`, :func:`evaluate` and :func:`bench`; a context manager.

    Raises:
        DeviceError: the device is unknown or unavailable, or refuses the program.
        UsageError: a trace, timeline or tuned build is asked of a device that simulates no hardware.

    >>> with catenary.open_device("reference", "model.cat") as engine:
    ...     engine.device
    'reference'
    """
    from catenary.isa.program import Program
    from catenary.runtime import devices

    loaded = load(source) if isinstance(source, str | PathLike) else source
    is_program = isinstance(loaded, Program)
    name = name or ("iss" if is_program else "graph-fp32")
    waveform, events = (None if file is None else Path(file) for file in (trace, timeline))
    options = devices.OpenOptions(waveform, events, progress, tune)
    devices.check_options(name, options)
    if not isinstance(loaded, Program) and devices.device_info(name).takes == "program":
        from catenary.boards.loader import load_accelerator
        from catenary.cli.cache import cached_program
        from catenary.compiler import CompileOptions

        loaded = cached_program(loaded, load_accelerator("small"), CompileOptions(), progress, warn)
    return devices.open_device(name, loaded, options)


def generate(
    engine: Engine,
    prompt_ids: Sequence[int],
    max_new_tokens: int = 128,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    eos_ids: Collection[int] = (),
    ignore_eos: bool = False,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        engine: from :func:`open_device`; it is reset first.
        prompt_ids: at least one token id.
        max_new_tokens: at least 1.
        temperature: 0 chooses the likeliest token each time; above 0 samples.
        top_p: share of the probability that is sampled from.
        seed: of the sampling.
        eos_ids: tokens that end the text; ``source.graph.eos_ids`` has the model's own.
        ignore_eos: go on after them.
        on_token: called with each token as soon as it is chosen.

    Raises:
        UsageError: the prompt is empty, longer than the context or outside the vocabulary; an option is out of range.
        ExecutionError: the program broke a rule, or its logits are not numbers.

    >>> with catenary.open_device("graph-fp32", "path/to/model") as engine:
    ...     len(catenary.generate(engine, [1, 2, 3], max_new_tokens=4).ids)
    4
    """
    from catenary.runtime.generate import generate
    from catenary.runtime.sampling import make_sampler

    sampler = make_sampler(temperature, top_p, seed)
    return generate(engine, prompt_ids, max_new_tokens, sampler, eos_ids, ignore_eos, on_token=on_token)


def evaluate(
    engine: Engine,
    tokenizer: TextTokenizer,
    text: str,
    *,
    max_tokens: int | None = None,
    separator: str = "<|endoftext|>",
    progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Score a text: how well the model on ``engine`` predicts it.

    Args:
        engine: from :func:`open_device`.
        tokenizer: the model's.
        text: documents with ``separator`` between them.
        max_tokens: stop after so many scored tokens; by default score everything.
        separator: at least one character.
        progress: called with the number of tokens scored so far.

    Raises:
        UsageError: there is nothing to score, an option is out of range, or the tokenizer has no BOS token.

    >>> model = catenary.load("path/to/model")
    >>> with catenary.open_device(None, model) as engine:
    ...     result = catenary.evaluate(engine, catenary.tokenizer(model), "Once upon a time", max_tokens=3)
    >>> result.tokens
    3
    """
    from catenary.runtime.evaluate import evaluate

    return evaluate(engine, tokenizer, text, max_tokens, separator, engine.max_context, progress)


def inspect(program: str | PathLike[str] | Program) -> ProgramSummary:
    """Sizes and memory map of a program, or of the program file at a path.

    Raises:
        ProgramError: the file is missing, damaged or of another version.

    >>> catenary.inspect("model.cat").config
    'small'
    """
    from catenary.isa.program import Program
    from catenary.runtime.summary import summarise

    return summarise(program if isinstance(program, Program) else Program.load(Path(program)))


def devices() -> list[DeviceStatus]:
    """All devices, and whether they can be opened on this machine.

    >>> [status.name for status in catenary.devices() if status.name == "graph-fp32"]
    ['graph-fp32']
    """
    from catenary.runtime.devices import list_devices

    return list_devices()


def bench(engine: Engine, prompt_tokens: int = 32, new_tokens: int = 32) -> BenchResult:
    """Measure prefill and decode on ``engine``, apart, after a short run that is not counted.

    Raises:
        UsageError: a count is below 1, or both together exceed the context.

    >>> with catenary.open_device("graph-fp32", "path/to/model") as engine:
    ...     catenary.bench(engine, prompt_tokens=4, new_tokens=2).source
    'wall'
    """
    from catenary.runtime.bench import bench

    return bench(engine, prompt_tokens, new_tokens)


def check(model: str | PathLike[str], *, accel: str | PathLike[str] | AcceleratorConfig = "small") -> CheckResult:
    """Say whether a checkpoint can be compiled for an accelerator, from its configuration alone.

    Raises:
        CheckpointError: there is nothing at ``model``.
        ConfigError: the accelerator is unknown or unsound.

    >>> catenary.check("path/to/model", accel="small").ok
    True
    """
    from catenary.boards.loader import load_accelerator
    from catenary.cli.model_check import check_model
    from catenary.isa.config import AcceleratorConfig

    return check_model(model, accel if isinstance(accel, AcceleratorConfig) else load_accelerator(fspath(accel)))


def verilog(
    folder: str | PathLike[str],
    *,
    accel: str | PathLike[str] | AcceleratorConfig = "small",
    progress: Callable[[str, float], None] | None = None,
) -> VerilogResult:
    """Write an accelerator's core as Verilog, with its register map (Markdown and C) and a description of its ports.

    Args:
        folder: to write to; made if it is not there.
        accel: a preset's name, a YAML file, or a configuration.
        progress: told of the stages.

    Raises:
        ConfigError: the accelerator is unknown or unsound.
        DeviceError: Amaranth or yosys is missing; the message says how to install them.

    >>> catenary.verilog("core", accel="small").top
    'catenary_core'
    """
    from catenary.boards.loader import load_accelerator
    from catenary.cli.verilog import write_verilog
    from catenary.isa.config import AcceleratorConfig
    from catenary.sim.rtl.cache import quiet
    from catenary.sim.rtl.core import core_design

    config = accel if isinstance(accel, AcceleratorConfig) else load_accelerator(fspath(accel))
    return write_verilog(Path(folder), config, core_design(config, progress or quiet))
