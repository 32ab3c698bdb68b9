# SPDX-License-Identifier: Apache-2.0
"""tools.train_demo: training uses the compiler's numbers, runs can be resumed, files are standard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import transformers

from catenary.compiler import importers
from catenary.compiler.compress import Compress
from catenary.compiler.prune import prune_mask
from catenary.isa.tensors import FloatTensor, QuantTensor
from catenary.runtime.evaluate import evaluate
from catenary.runtime.tokenizer import TextTokenizer
from catenary.sim.float_graph import FloatGraph
from catenary.sim.reference import Reference
from tools.demo_training.data import (
    BOS_ID,
    EOS_ID,
    NO_TARGET,
    TrainingError,
    Windows,
    encode,
    read_corpus,
    train_tokenizer,
)
from tools.demo_training.files import read_checkpoint, write_checkpoint
from tools.demo_training.loop import STATE
from tools.demo_training.model import DemoModel, Linear, Shape, balance_loss
from tools.demo_training.numbers import set_numbers
from tools.demo_training.plot import Curve, line_chart, ticks
from tools.demo_training.recipe import Recipe
from tools.demo_training.scoring import bits_per_byte, router_statistics
from tools.train_demo import Job, main, train

SEED = 5
CPU = torch.device("cpu")
TINY = Shape(hidden=24, layers=2, heads=4, kv_heads=2, ffn=40, vocab=300, context=32)
SMALL = replace(TINY, layers=1)
MIXTURE = replace(TINY, ffn=12, experts=4)
torch.set_num_threads(1)  # the models are tiny: threads only wait for one another


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of 290 complete stories and one cut off."""
    rng = np.random.default_rng(SEED)
    words = ["Tom", "Lily", "a", "big", "dog", "ran", "to", "the", "park", "and", "saw", "café", "ball", "was", "happy"]
    stories = [" ".join(rng.choice(words, int(rng.integers(3, 60)))) + "." for _ in range(290)]
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("".join(f"{story}\n<|endoftext|>\n" for story in stories) + "Tom was cut", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(text):
    return read_corpus(text)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus.training, TINY.vocab)


def random_model(shape: Shape) -> DemoModel:
    """A model whose logits and norms are far from constant."""
    torch.manual_seed(SEED)
    model = DemoModel(shape)
    with torch.no_grad():
        model.model.embed_tokens.weight *= 20
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.3, 2.0)
    return model.eval()


def run(text: Path, out: Path, recipe: Recipe, **more) -> dict | None:
    job = Job(**{"kind": "dense", "shape": SMALL, "seed": SEED, "device": CPU, "recipe": recipe, "out": out} | more)
    return train(job, read_corpus(text), lambda _: None)


# --- data ---


def test_parts_of_the_text_are_disjoint_and_the_last_stories_are_held_out(text, corpus):
    stories = [part.strip() for part in text.read_text(encoding="utf-8").split("<|endoftext|>")]
    assert list(corpus.held_out) == stories[140:290]
    assert len(corpus.validation) == 64
    assert not {*corpus.training} & {*corpus.validation, *corpus.held_out}
    assert {*corpus.training, *corpus.validation} == {*stories[:140]} - ({*corpus.held_out} - {*corpus.validation})


def test_a_story_for_training_that_is_held_out_too_is_left_out(tmp_path):
    path = tmp_path / "text"
    path.write_text("".join(f"{story}<|endoftext|>" for story in ["a", "b", "c", "d", "b"]), encoding="utf-8")
    corpus = read_corpus(path, held_out=1, validation=1)
    assert (corpus.training, corpus.validation, corpus.held_out) == (("c", "d"), ("a",), ("b",))


def test_texts_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"^Text .* must be readable, not: No such file or directory$"):
        read_corpus(tmp_path / "none")
    (tmp_path / "short").write_text("one<|endoftext|>two<|endoftext|>")
    with pytest.raises(TrainingError, match=r"^Text must hold at least 278 complete stories, not 2$"):
        read_corpus(tmp_path / "short")


def test_the_tokenizer_encodes_every_text(tokenizer):
    assert tokenizer.get_vocab_size() == TINY.vocab
    for sample in ("Tom ran.", "", " é 龙 \N{GRINNING FACE}\n\t\0", "<s>x"):
        ids = tokenizer.encode(sample).ids
        assert ids[0] == BOS_ID, repr(sample)
        assert tokenizer.decode(ids[1:], skip_special_tokens=False) == sample
    with pytest.raises(TrainingError, match=r"^Vocabulary must be at least 258 tokens, not 257$"):
        train_tokenizer(["a"], 257)


def test_windows_follow_the_stories(corpus, tokenizer):
    stories = encode(tokenizer, corpus.training)
    windows = Windows(stories, 32, CPU)
    inputs, targets = windows.draw(200, torch.Generator().manual_seed(SEED))
    known = [(*ids, EOS_ID) for ids in stories]
    assert windows.tokens == sum(map(len, known))
    starts = 0
    for row, (given, wanted) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        real = [token for token in wanted if token != NO_TARGET]
        assert given[0] == BOS_ID, f"seed {SEED}, row {row}"
        assert given[1 : len(real)] == real[:-1], f"seed {SEED}, row {row}"
        assert wanted[len(real) :] == [NO_TARGET] * (32 - len(real)), f"seed {SEED}, row {row}"
        places = [(ids, at) for ids in known for at in range(len(ids)) if list(ids[at : at + 32]) == real]
        assert places, f"seed {SEED}, row {row}: no story goes on like this"
        starts += any(at == 0 for _, at in places)
    assert 100 <= starts < 200, f"seed {SEED}"


# --- files and numbers ---


def test_checkpoints_are_read_alike_by_transformers_the_importer_and_the_tool(tmp_path, corpus, tokenizer):
    model = random_model(TINY)
    write_checkpoint(tmp_path, model, tokenizer)
    own, _ = read_checkpoint(tmp_path, CPU)
    imported = importers.load(tmp_path)
    assert (imported.graph.bos_id, imported.graph.eos_ids) == (BOS_ID, (EOS_ID,))
    ids = tokenizer.encode(corpus.held_out[0]).ids[:32]
    with torch.no_grad():
        logits = own.eval()(torch.tensor([ids]))[0][0].numpy()
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        np.testing.assert_allclose(theirs(torch.tensor([ids])).logits[0].numpy(), logits, atol=1e-4)
    np.testing.assert_allclose(FloatGraph(imported.graph).run(ids, 0, all_logits=True), logits, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(corpus.held_out[0])["input_ids"][:32] == ids


def test_a_mixture_of_experts_is_a_mixtral(tmp_path, corpus, tokenizer):
    write_checkpoint(tmp_path, random_model(MIXTURE), tokenizer)
    own, _ = read_checkpoint(tmp_path, CPU)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "MixtralForCausalLM"
    ids = torch.tensor([tokenizer.encode(corpus.held_out[0]).ids[:32]])
    with torch.no_grad():
        np.testing.assert_allclose(theirs(ids).logits.numpy(), own.eval()(ids)[0].numpy(), atol=1e-4)


def test_the_router_statistics_count_every_token_twice(corpus, tokenizer):
    model, stories = random_model(MIXTURE), corpus.held_out[:5]
    found = router_statistics(model, tokenizer, stories)
    assert found["tokens"] == sum(map(len, encode(tokenizer, stories)))
    assert [sum(layer) for layer in found["tokens_per_expert"]] == [2 * found["tokens"]] * MIXTURE.layers
    assert all(0 < bits <= 2 for key in ("load_entropy_bits", "token_entropy_bits") for bits in found[key])
    assert all(0.5 <= share <= 1 for share in found["top_share"])


def test_the_balance_loss_is_least_where_experts_share_evenly():
    counts = torch.tensor([[True, True, False]])
    even = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.2, 0.2, 0.3, 0.3], [1.0, 0, 0, 0]]])
    same = torch.tensor([[[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]])
    assert float(balance_loss([even], counts)) == pytest.approx(1.0)
    assert float(balance_loss([even, same], counts)) == pytest.approx(1.5)


@pytest.mark.parametrize("sparsity", ["none", "8:16"])
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_training_are_those_of_the_compiler(tmp_path, corpus, tokenizer, bits, sparsity):
    write_checkpoint(tmp_path, random_model(TINY), tokenizer)
    model, _ = read_checkpoint(tmp_path, CPU)
    graph = Compress(weight_bits=bits, sparsity=sparsity).apply(importers.load(tmp_path).graph)
    set_numbers(model, bits, sparsity)
    names = {"layers.1.attn.k.weight": model.model.layers[1].self_attn.k_proj, "head.weight": model.lm_head}
    names["layers.0.mlp.down.weight"] = model.model.layers[0].mlp.down_proj
    for name, linear in names.items():
        tensor = graph.tensors[name]
        assert isinstance(tensor, QuantTensor)
        mine = torch.round(linear.weight * linear.mask / linear.step).clamp(linear.low, linear.high).detach().numpy()
        wanted = np.rint(tensor.expanded() * tensor.channel_scales[:, None] / linear.step.numpy())
        apart = np.abs(mine - wanted)
        assert apart.max() <= (0 if bits == 8 else 1), name
        assert np.mean(apart != 0) < 0.05, name
        assert not mine[~tensor.mask[:, : tensor.columns]].any(), name
    own = bits_per_byte(model, tokenizer, corpus.held_out[:3], quantised=True)
    checkpoint_tokenizer = TextTokenizer((tmp_path / "tokenizer.json").read_text(), {"bos_id": BOS_ID})
    story_text = "<|endoftext|>".join(corpus.held_out[:3])
    exact = evaluate(Reference(graph), checkpoint_tokenizer, story_text, context=TINY.context)
    assert own == pytest.approx(exact.bits_per_byte, rel=5e-3)


def test_scores_follow_the_rule_of_eval(tmp_path, corpus, tokenizer):
    write_checkpoint(tmp_path, random_model(TINY), tokenizer)
    model, _ = read_checkpoint(tmp_path, CPU)
    engine = FloatGraph(importers.load(tmp_path).graph)
    checkpoint_tokenizer = TextTokenizer((tmp_path / "tokenizer.json").read_text(), {"bos_id": BOS_ID})
    stories = corpus.held_out[:6]
    exact = evaluate(engine, checkpoint_tokenizer, "<|endoftext|>".join(stories), context=TINY.context)
    assert bits_per_byte(model, tokenizer, stories) == pytest.approx(exact.bits_per_byte, rel=1e-5)


def test_gradients_pass_rounding_and_stop_at_settled_masks():
    linear = Linear(2, 16)
    with torch.no_grad():
        linear.weight.fill_(0.7)
        linear.step.fill_(0.5)
        linear.low.fill_(-7)
        linear.high.fill_(7)
        linear.mask[:, 8:] = 0
        linear.learns[1] = linear.mask[1]
    out = linear(torch.ones(1, 16), True)
    assert out.tolist() == [[4.0, 4.0]]  # eight weights of 0.7, each rounded to 0.5
    out.sum().backward()
    assert linear.weight.grad is not None
    assert (linear.weight.grad != 0).tolist() == [[True] * 16, [True] * 8 + [False] * 8]


# --- training ---

DENSE = Recipe(8, batch=4, warmup=2, quantised_from=0.5, quantised_every=2, refresh=3)
SPARSE = replace(DENSE, quantised_every=1, sparsity="8:16", settle_at=0.4, distil=0.5)


@pytest.fixture(scope="module")
def dense(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("dense")
    return out, run(text, out, DENSE)


@pytest.fixture(scope="module")
def sparse(text, dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("sparse")
    return out, run(text, out, SPARSE, kind="sparse", teacher=dense[0])


def test_a_run_leaves_a_checkpoint_a_log_and_a_plot(dense):
    out, log = dense
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == names | {"training.json", "training.svg"}
    assert json.loads((out / "training.json").read_text()) == log
    assert log["block_weights_kept"] == 1.0
    numbers = {"w8a8kv8", "w4a8kv8", "w8a8kv8_8:16", "w4a8kv8_8:16"}
    assert {*log["held_out_bits_per_byte"]} == {"fp32", *numbers}
    assert [step for step, _ in log["scores"]] == [*range(1, 9)]
    assert log["scores"][-1][1] < log["scores"][0][1]
    assert all(len(stories) == 3 for stories in log["stories"].values())
    ElementTree.parse(out / "training.svg")


@pytest.mark.parametrize("kind, stop", [("dense", 1), ("dense", 5), ("sparse", 2), ("sparse", 5)])
def test_a_run_in_pieces_equals_one_in_one_piece(text, tmp_path, dense, sparse, kind, stop):
    more = {"kind": kind, "teacher": dense[0] if kind == "sparse" else None}
    recipe = SPARSE if kind == "sparse" else DENSE
    whole = sparse[1] if kind == "sparse" else dense[1]
    assert run(text, tmp_path / "pieces", recipe, stop=stop, **more) is None
    assert (tmp_path / "pieces" / STATE).exists()
    pieces = run(text, tmp_path / "pieces", recipe, resume=True, **more)
    reference = sparse[0] if kind == "sparse" else dense[0]
    assert (tmp_path / "pieces/model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    for key in ("losses", "scores", "held_out_bits_per_byte", "stories"):
        assert pieces[key] == whole[key], key


def test_a_state_of_another_run_is_refused(text, tmp_path):
    assert run(text, tmp_path, DENSE, stop=1) is None
    with pytest.raises(TrainingError, match=r"^resume\.pt must be of a run with the same options, not "):
        run(text, tmp_path, DENSE, resume=True, seed=SEED + 1)
    with pytest.raises(TrainingError, match=r"resume\.pt must be a state to resume from, not: "):
        run(text, tmp_path / "absent", DENSE, resume=True)


def test_a_sparse_checkpoint_is_exactly_sparse_in_every_linear_layer(sparse):
    out, log = sparse
    assert {*log["held_out_bits_per_byte"]} == {"fp32", "w8a8kv8_8:16", "w4a8kv8_8:16"}
    tensors = importers.load(out).graph.tensors
    for name, tensor in tensors.items():
        assert isinstance(tensor, FloatTensor)
        if name.startswith("layers.") and len(tensor.shape) == 2:
            weights = tensor.to_float32()
            kept = prune_mask(weights, np.full(len(weights), 8, np.uint8))[:, : weights.shape[1]]
            assert not weights[~kept].any(), name
            assert weights[kept].all(), name
    assert tensors["head.weight"].to_float32().all()


def test_a_mixture_of_experts_is_trained_and_its_router_told_of(text, tmp_path):
    log = run(text, tmp_path, replace(DENSE, quantised_from=1.0, balance=0.02), kind="moe", shape=MIXTURE)
    assert {*log["held_out_bits_per_byte"]} == {"fp32"}
    router = json.loads((tmp_path / "router.json").read_text())
    assert len(router["tokens_per_expert"]) == MIXTURE.layers


def test_the_learning_rate_rises_then_falls():
    rates = [Recipe(100, warmup=10).rate_at(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == Recipe(100).rate


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "sparse"], "--teacher must be given with --model sparse and only there"),
        (["--steps", "0"], "Steps must be at least 1, not 0"),
        (["--batch", "-3"], "Batch must be at least 1 window, not -3"),
        (["--model", "sparse", "--teacher", "none"], "none must hold a demo checkpoint, not one with the fault: "),
    ],
)
def test_wrong_options_are_refused(text, tmp_path, capsys, arguments, message):
    assert main(["--text", str(text), "--out", str(tmp_path / "out"), "--device", "cpu", *arguments]) == 1
    assert message in capsys.readouterr().err


# --- plot ---


def test_ticks_are_round_and_cover_the_range():
    assert ticks(0, 12000) == [0, 2000, 4000, 6000, 8000, 10000, 12000]
    assert ticks(0.98, 1.93) == [0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    assert ticks(1.0, 1.0)[0] <= 1.0 <= ticks(1.0, 1.0)[-1]


def test_the_chart_is_well_formed_and_leaves_out_the_steep_start():
    chart = line_chart("a < b", "x", "y", [Curve("one", [(0, 9.0), (1, 2.0), (2, 1.5)]), Curve("none", [])], y_top=2.0)
    lines = ElementTree.fromstring(chart).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 0]
