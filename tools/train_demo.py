# SPDX-License-Identifier: Apache-2.0
"""Train the demo models on a text of short stories: dense, 8:16 sparse, and a mixture of experts.

    python tools/train_demo.py --text FILE --out DIR                            a dense model
    python tools/train_demo.py --text FILE --out DIR --model sparse --teacher DENSE_DIR
    python tools/train_demo.py --text FILE --out DIR --model all                DIR/demo-dense, -sparse and -moe

Each directory gets a Hugging Face checkpoint, ``training.json`` (how it came about and what it scores) and
``training.svg`` (loss curve). Needs torch, and the package ``catenary``, whose compiler prunes and rounds in training.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, only tools/ itself is on the path

from tools.demo_training.data import Corpus, TrainingError, Windows, encode, read_corpus, train_tokenizer
from tools.demo_training.files import read_checkpoint, write_checkpoint
from tools.demo_training.loop import STATE, Report, Trainer, read_state
from tools.demo_training.model import DemoModel, Shape, parameter_count
from tools.demo_training.numbers import kept_share, set_numbers
from tools.demo_training.plot import Curve, line_chart
from tools.demo_training.recipe import RECIPES, SHAPES, Recipe
from tools.demo_training.scoring import bits_per_byte, router_statistics, write_stories

KINDS = ("dense", "sparse", "moe")
LOG, PLOT, ROUTER = "training.json", "training.svg", "router.json"


@dataclass(frozen=True)
class Job:
    """One model to train.

    Attributes:
        kind: one of :data:`KINDS`.
        recipe: how.
        shape: of the model; the teacher's where there is one.
        teacher: checkpoint to start and learn from, or ``None``.
        out: directory of the checkpoint.
        seed: of weights, windows and dropout.
        device: ``cpu`` or ``cuda``.
        resume: go on from the state in ``out``.
        stop: leave after so many steps, to resume later; ``None`` trains to the end.
    """

    kind: str
    recipe: Recipe
    shape: Shape
    out: Path
    seed: int
    device: torch.device
    teacher: Path | None = None
    resume: bool = False
    stop: int | None = None


def train(job: Job, corpus: Corpus, report: Report = print) -> dict[str, Any] | None:
    """Train a model, write its directory, and return the content of its log; ``None`` if it stopped before the end.

    Raises:
        TrainingError: the teacher or the state to resume from is unusable.
    """
    torch.manual_seed(job.seed)
    teacher = None
    state = read_state(job.out) if job.resume else None
    if job.teacher is not None:
        teacher, tokenizer = read_checkpoint(job.teacher, job.device)
        teacher.eval().requires_grad_(False)
        model = read_checkpoint(job.teacher, job.device, job.recipe.dropout)[0]
    else:
        known = None if state is None else Tokenizer.from_str(state["tokenizer"])
        tokenizer = known or train_tokenizer(corpus.training, job.shape.vocab)
        model = DemoModel(job.shape, job.recipe.dropout).to(job.device)
    windows = Windows(encode(tokenizer, corpus.training), model.shape.context, job.device)
    trainer = Trainer(model, job.recipe, windows, job.seed, teacher)
    if state is not None:
        trainer.resume(state)
    stories = len(corpus.training)
    report(f"{job.kind}: {parameter_count(model)} parameters, {windows.tokens} tokens of {stories} stories")
    steps = job.recipe.steps if job.stop is None else job.stop
    trainer.run(lambda: bits_per_byte(model, tokenizer, corpus.validation), report, job.out, tokenizer, steps)
    if trainer.step < job.recipe.steps:
        report(f"{job.kind}: stopped at step {trainer.step} of {job.recipe.steps}; go on with --resume")
        return None
    log = _finish(job, corpus, trainer, tokenizer, windows.tokens, report)
    (job.out / STATE).unlink()
    return log


def _finish(
    job: Job, corpus: Corpus, trainer: Trainer, tokenizer: Tokenizer, tokens: int, report: Report
) -> dict[str, Any]:
    """Write the checkpoint, and log, plot and figures of what is in it."""
    size = write_checkpoint(job.out, trainer.model, tokenizer)
    model, tokenizer = read_checkpoint(job.out, job.device)  # scored is what was written, FP16 rounding included
    kept = kept_share(model)
    started = time.perf_counter()
    figures, stories = score(model, tokenizer, job.kind, corpus, job.seed)
    log = {
        "model": job.kind,
        "parameters": parameter_count(model),
        "shape": model.shape.dims(),
        "weight_file_bytes": size,
        "block_weights_kept": round(kept, 4),
        "text": {
            "sha256": corpus.sha256,
            "training_stories": len(corpus.training),
            "validation_stories": len(corpus.validation),
            "held_out_stories": len(corpus.held_out),
            "held_out_bytes": sum(len(story.encode()) for story in corpus.held_out),
            "training_tokens": tokens,
        },
        "seed": job.seed,
        "recipe": asdict(job.recipe),
        "training_seconds": round(trainer.seconds, 1),
        "scoring_seconds": round(time.perf_counter() - started, 1),
        "machine": machine(job.device),
        "validation_bits_per_byte": round(trainer.scores[-1][1], 4),
        "held_out_bits_per_byte": figures,
        "stories": stories,
        "losses": [[step, round(loss, 4)] for step, loss in trainer.losses],
        "scores": [[step, round(value, 4)] for step, value in trainer.scores],
    }
    _write_json(job.out / LOG, log)
    if model.shape.experts:
        _write_json(job.out / ROUTER, dict(router_statistics(model, tokenizer, corpus.held_out)))
    tokens_there = sum(map(len, encode(tokenizer, corpus.validation)))
    bits = tokens_there / sum(len(story.encode()) for story in corpus.validation) / math.log(2)
    curves = [
        Curve("training, with dropout (from loss per token)", [(at, loss * bits) for at, loss in trainer.losses]),
        Curve("validation stories", trainer.scores),
    ]
    title = f"demo-{job.kind}: {parameter_count(model):,} parameters, seed {job.seed}"
    (job.out / PLOT).write_text(line_chart(title, "step", "bits per byte", curves, y_top=2.0), encoding="utf-8")
    report(f"{job.kind}: held-out bits per byte {figures}, trained in {trainer.seconds:.0f} s")
    return log


def score(
    model: DemoModel, tokenizer: Tokenizer, kind: str, corpus: Corpus, seed: int
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Held-out bits per byte by kind of numbers, and three stories in the first and last of them.

    W8 and W4 mean the compiler's weights, with 8-bit activations, queries, keys and values; attention's probabilities
    stay floats here, which on the device have 14 bits.
    """
    figures = {"fp32": bits_per_byte(model, tokenizer, corpus.held_out)}
    stories = {"fp32": write_stories(model, tokenizer, seed)}
    sparsities = {"dense": ("none", "8:16"), "sparse": ("8:16",), "moe": ()}[kind]
    for sparsity in sparsities:
        for bits in (8, 4):
            set_numbers(model, bits, sparsity)
            name = f"w{bits}a8kv8" if sparsity == "none" else f"w{bits}a8kv8_{sparsity}"
            figures[name] = bits_per_byte(model, tokenizer, corpus.held_out, quantised=True)
            if sparsity == sparsities[0]:
                stories[name] = write_stories(model, tokenizer, seed, quantised=True)
    return {name: round(value, 4) for name, value in figures.items()}, stories


def machine(device: torch.device) -> str:
    """What a run's wall time was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def jobs(options: argparse.Namespace) -> list[Job]:
    """What the command line asks for.

    Raises:
        TrainingError: options that do not go together.
    """
    if (options.model == "sparse") != (options.teacher is not None):
        raise TrainingError("--teacher must be given with --model sparse and only there")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device must be cpu where torch finds no GPU, not cuda")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    result = []
    for kind in KINDS if options.model == "all" else (options.model,):
        recipe = RECIPES[kind]
        given = {"steps": options.steps, "batch": options.batch}
        recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        out = options.out / f"demo-{kind}" if options.model == "all" else options.out
        teacher = options.teacher
        if options.model == "all" and kind == "sparse":
            teacher = options.out / "demo-dense"
        shape = SHAPES.get(kind, SHAPES["dense"])
        resume = options.resume and (options.model != "all" or (out / STATE).exists())
        job = Job(kind, recipe, shape, out, options.seed, device, teacher, resume, options.stop_at)
        if not (options.model == "all" and options.resume and (out / LOG).exists()):
            result.append(job)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Train the demo models.", allow_abbrev=False)
    parser.add_argument("--text", type=Path, required=True, help="stories with <|endoftext|> between them")
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint, or of all three")
    parser.add_argument("--model", choices=(*KINDS, "all"), default="dense")
    parser.add_argument("--teacher", type=Path, help="dense checkpoint that the sparse model starts and learns from")
    parser.add_argument("--steps", type=int, help="weight updates; by default what the recipe of the model says")
    parser.add_argument("--batch", type=int, help="windows in each; likewise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="by default cuda where there is one")
    parser.add_argument("--resume", action="store_true", help="go on from the state that a run left in --out")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="leave after this step, to resume later")
    options = parser.parse_args(arguments)
    try:
        corpus = read_corpus(options.text)
        for job in jobs(options):
            if train(job, corpus, lambda line: print(line, flush=True)) is None:
                break
    except TrainingError as error:
        print(f"train_demo: {error}", file=sys.stderr)
        return 1
    return 0


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
