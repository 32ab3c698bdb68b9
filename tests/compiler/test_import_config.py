# SPDX-License-Identifier: Apache-2.0
"""Bad and unsupported configurations: each is refused by a message that names the thing, the rule and the value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catenary.compiler import importers
from catenary.compiler.random_models import llama_config, write_model
from catenary.isa.errors import CheckpointError, UnsupportedModelError, UsageError
from tests.compiler.checkpoints import edit_json, refused

QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
STABLELM = {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm"}
LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
TWO = ["LlamaForCausalLM", "GPT2LMHeadModel"]
WIDTH = "an integer from 1 to 1048576"
EPS = "a number above 0, at most 1"
WINDOW = "at least the context of 128 tokens"
ROPES = "one of default, linear, llama3"

BAD = [  # (values over a good configuration, what is named, the rule, the value)
    ({"hidden_size": None}, "hidden_size", WIDTH, "missing"),
    ({"hidden_size": 64.0}, "hidden_size", WIDTH, "64.0"),
    ({"hidden_size": 66}, "hidden_size", "a multiple of num_attention_heads 4", "66"),
    ({"num_hidden_layers": 0}, "num_hidden_layers", "an integer from 1 to 4096", "0"),
    ({"intermediate_size": -3}, "intermediate_size", WIDTH, "-3"),
    ({"vocab_size": 10**30}, "vocab_size", "an integer from 1 to 4194304", str(10**30)),
    ({"vocab_size": "9" * 99}, "vocab_size", "an integer from 1 to 4194304", "'" + "9" * 76 + "..."),
    ({"num_attention_heads": "4"}, "num_attention_heads", WIDTH, "'4'"),
    ({"num_key_value_heads": 0}, "num_key_value_heads", WIDTH, "0"),
    ({"num_key_value_heads": 3}, "num_attention_heads", "a multiple of num_key_value_heads 3", "4"),
    ({"head_dim": True}, "head_dim", WIDTH, "True"),
    (STABLELM | {"head_dim": 32}, "head_dim", "hidden_size / num_attention_heads = 16", "32"),
    ({"max_position_embeddings": 0}, "max_position_embeddings", "an integer from 1 to 16777216", "0"),
    ({"rms_norm_eps": 0}, "rms_norm_eps", EPS, "0"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps", EPS, "'1e-5'"),
    (STABLELM | {"layer_norm_eps": 2}, "layer_norm_eps", EPS, "2"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings", "true or false", "1"),
    ({"attention_bias": "no"}, "attention_bias", "true or false", "'no'"),
    ({"mlp_bias": 0}, "mlp_bias", "true or false", "0"),
    ({"hidden_act": 3}, "hidden_act", "one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh, relu, tanh", "3"),
    ({"rope_scaling": [1]}, "rope_scaling", "a JSON object", "[1]"),
    ({"architectures": TWO}, "architectures", "a list of one name", str(TWO)),
    ({"architectures": None, "model_type": None}, "architectures", "a list of one name", "None"),
    ({"bos_token_id": 288}, "bos_token_id", "an integer from 0 to 287", "288"),
    ({"eos_token_id": [2, -1]}, "eos_token_id", "an integer from 0 to 287", "-1"),
]
BAD_ROPE = [  # (content of rope_scaling, what is named, the rule, the value)
    ({"rope_theta": -1}, "rope_theta", "a number above 0, at most 1e+15", "-1"),
    ({"type": "linear"}, "factor", "a number above 0, at most 1e+06", "missing"),
    (LLAMA3 | {"high_freq_factor": 1}, "high_freq_factor", "more than low_freq_factor 1", "1.0"),
    (
        LLAMA3 | {"original_max_position_embeddings": 1.5},
        "original_max_position_embeddings",
        "an integer from 1 to 16777216",
        "1.5",
    ),
]
FAMILIES = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, StableLmForCausalLM"
UNSUPPORTED = [  # as BAD
    ({"architectures": ["GPT2LMHeadModel"]}, "architectures", f"one of {FAMILIES}", "'GPT2LMHeadModel'"),
    (
        {"architectures": None, "model_type": "gpt2"},
        "model_type",
        "one of llama, mistral, qwen2, stablelm",
        "'gpt2'",
    ),
    (
        {"hidden_act": "relu2"},
        "hidden_act",
        "one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh, relu, tanh",
        "'relu2'",
    ),
    (
        {"rope_parameters": {"full_attention": {"factor": 2}}},
        "rope_parameters",
        "one set of values for all layers",
        "{'full_attention': {'factor': 2}}",
    ),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config",
        "absent (weights in FP32, FP16 or BF16)",
        "'present'",
    ),
    (MISTRAL | {"sliding_window": 100}, "sliding_window", WINDOW, "100"),
    (QWEN | {"sliding_window": 100, "use_sliding_window": True}, "sliding_window", WINDOW, "100"),
    (STABLELM | {"use_parallel_residual": True}, "use_parallel_residual", "False", "True"),
    (STABLELM | {"qk_layernorm": True}, "qk_layernorm", "False", "True"),
]
UNSUPPORTED_ROPE = [  # as BAD_ROPE
    ({"rope_type": "yarn", "factor": 4.0}, "rope_type", ROPES, "'yarn'"),
    ({"type": "longrope"}, "rope_type", ROPES, "'longrope'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "1 for LlamaForCausalLM", "0.5"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", llama_config(), seed=1)


@pytest.mark.parametrize("kind, cases", [(CheckpointError, BAD), (UnsupportedModelError, UNSUPPORTED)])
def test_configuration_that_is_refused(model, kind, cases):
    for values, thing, rule, value in cases:
        (model / "config.json").write_text(json.dumps(llama_config(**values)))
        message = f"{thing} of config.json must be {rule}, not {value}"
        refused(model, message, kind)
        summary = importers.inspect(model)
        assert not summary.ok
        assert message in summary.reasons


@pytest.mark.parametrize("kind, cases", [(CheckpointError, BAD_ROPE), (UnsupportedModelError, UNSUPPORTED_ROPE)])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rotary_parameters_that_are_refused(model, kind, cases, key):
    for values, thing, rule, value in cases:
        (model / "config.json").write_text(json.dumps(llama_config(**{key: values})))
        refused(model, f"{thing} of {key} in config.json must be {rule}, not {value}", kind)


def test_rotary_parameters_beside_the_dictionary(model):
    edit_json(model, "config.json", rope_theta="much")
    thing = "rope_theta of rope_parameters in config.json"
    refused(model, f"{thing} must be a number above 0, at most 1e+15, not 'much'")
    edit_json(model, "config.json", rope_theta=1e4, head_dim=7)
    thing = "Rotated part of head_dim of rope_parameters in config.json"
    refused(model, f"{thing} must be even, not 7", UnsupportedModelError)


def test_two_bos_tokens(model):
    edit_json(model, "config.json", bos_token_id=[1, 2])
    refused(model, "bos_token_id must be one id, not [1, 2]")


@pytest.mark.parametrize(
    "text, rule",
    [
        ("{", "valid JSON, not: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "a JSON object, not list"),
        ('{"a": 1, "a": 2}', "valid JSON, not: key 'a' given twice"),
        ('{"a": NaN}', "valid JSON, not: number NaN"),
    ],
)
def test_configuration_that_is_no_json_object(model, text, rule):
    (model / "config.json").write_text(text)
    refused(model, f"config.json must be {rule}")


def test_configuration_that_is_no_text_or_nested_without_end(model):
    (model / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"^config\.json must be valid JSON, not: 'utf-8' codec can't decode"):
        importers.load(model)
    (model / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"^config\.json must be valid JSON, not: maximum recursion depth"):
        importers.load(model)


def test_paths_that_are_no_model(tmp_path, model):
    absent = r"'nowhere' \(no such file or directory\)$"
    with pytest.raises(CheckpointError, match=f"^Model must be a Hugging Face directory, not {absent}"):
        importers.load("nowhere")
    with pytest.raises(CheckpointError, match=rf"^Model must be .* directory or a config\.json, not {absent}"):
        importers.inspect("nowhere")
    with pytest.raises(CheckpointError, match=r"^Model must be .* \(a config\.json alone needs dummy weights\)$"):
        importers.load(model / "config.json")
    with pytest.raises(CheckpointError, match=r"^Model with dummy weights must be a config\.json file, not "):
        importers.load(model, dummy_seed=1)
    refused(tmp_path, "File {dir}/config.json must be readable, not: No such file or directory")


def test_maximum_context(model):
    refused(model, "Maximum context must be at most the model's 128 tokens, not 129", UsageError, max_context=129)
    refused(model, "Maximum context must be at least 1 token, not 0", UsageError, max_context=0)
    with pytest.raises(UsageError, match=r"^Maximum context must be at most the model's 128 tokens, not 200$"):
        importers.inspect(model, max_context=200)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_seed_of_dummy_weights(model, seed):
    with pytest.raises(UsageError, match=f"^Seed of dummy weights must be from 0 to 4294967295, not {seed}$"):
        importers.load(model / "config.json", dummy_seed=seed)


def test_tokenizer_files(model):
    tokenizer = json.loads((model / "tokenizer.json").read_text())["model"]
    edit_json(model, "tokenizer.json", model=tokenizer | {"vocab": tokenizer["vocab"] | {"large": 288}})
    message = "Ids of tokenizer.json must be below vocab_size 288, not 288 ('large')"
    refused(model, message)
    assert importers.inspect(model).reasons == [message]
    edit_json(model, "tokenizer.json", model=tokenizer, added_tokens=[{"content": "<x>", "id": 300}])
    refused(model, "Ids of tokenizer.json must be below vocab_size 288, not 300 ('<x>')")
    edit_json(model, "tokenizer.json", model={"vocab": [["a", 0.0]] * 288 + [["b", 0.0]]}, added_tokens=[])
    refused(model, "Ids of tokenizer.json must be below vocab_size 288, not 288 ('b')")
    edit_json(model, "tokenizer.json", model={"vocab": {"a": "1"}})
    refused(model, "Id of token 'a' in tokenizer.json must be a natural number, not '1'")
    edit_json(model, "tokenizer.json", model={"type": "BPE"})
    refused(model, "model of tokenizer.json must hold a vocabulary, not NoneType")
    (model / "tokenizer.json").write_text("")
    refused(model, "tokenizer.json must be valid JSON, not: Expecting value: line 1 column 1 (char 0)")


def test_tokenizer_settings(model):
    edit_json(model, "tokenizer_config.json", add_bos_token="yes")
    refused(model, "add_bos_token of tokenizer_config.json must be true or false, not 'yes'")
    edit_json(model, "tokenizer_config.json", add_bos_token=True)
    edit_json(model, "generation_config.json", eos_token_id=[2, 999])
    refused(model, "eos_token_id of generation_config.json must be an integer from 0 to 287, not 999")


def test_every_reason_is_found_at_once(model):
    values = {"hidden_act": "mish", "vocab_size": 0, "rope_scaling": {"type": "yarn"}, "rms_norm_eps": -1.0}
    (model / "config.json").write_text(json.dumps(llama_config(**values)))
    summary = importers.inspect(model)
    assert (summary.ok, summary.family, summary.dims) == (False, "llama", {})
    assert len(summary.reasons) == 4
