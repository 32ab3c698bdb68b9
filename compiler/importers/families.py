# SPDX-License-Identifier: Apache-2.0
"""Hugging Face model families that share the Llama graph, as data, and how their configuration becomes a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from catenary.compiler.importers.fields import Fields
from catenary.compiler.importers.llama import EMBED, HEAD, LlamaShape, tensor_shapes
from catenary.compiler.importers.rotary import LinearScaling, Llama3Scaling, Rotary
from catenary.isa.errors import CheckpointError, UnsupportedModelError, UsageError
from catenary.isa.graph import NormKind, Unary

DEFAULT_CONTEXT = 4096
"""Longest context that is chosen without being asked for, in tokens."""

MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 22
MAX_LAYERS = 1 << 12
MAX_CONTEXT = 1 << 24

ACTIVATIONS: Mapping[str, Unary] = {
    "silu": Unary.SILU,
    "swish": Unary.SILU,
    "gelu": Unary.GELU_ERF,
    "gelu_new": Unary.GELU_TANH,
    "gelu_pytorch_tanh": Unary.GELU_TANH,
    "relu": Unary.RELU,
    "tanh": Unary.TANH,
}
ROPE_TYPES: Mapping[str, str] = {name: name for name in ("default", "linear", "llama3")}


@dataclass(frozen=True)
class Family:
    """How one architecture differs from the others of the Llama shape.

    Attributes:
        name: short name, also the checkpoint's ``model_type``.
        architecture: class name in the checkpoint's ``architectures``.
        defaults: values of configuration keys that a file may leave out.
        norm, eps_key: kind of every norm, and the key of its epsilon.
        qkv_bias, out_bias, mlp_bias: whether those linears have a bias: a constant, or the key that says so.
        partial_rotary: whether ``partial_rotary_factor`` counts; elsewhere it must be 1.
        derived_head_dim: whether ``head_dim`` is always ``hidden_size / num_attention_heads``.
        window_switch: key that turns the sliding window on; ``None`` where a given window is always on.
        has_window: whether the architecture has a sliding window at all.
        fixed: keys that must have one value, since any other asks for another graph.
    """

    name: str
    architecture: str
    defaults: Mapping[str, object]
    norm: NormKind = NormKind.RMS
    eps_key: str = "rms_norm_eps"
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    partial_rotary: bool = False
    derived_head_dim: bool = False
    window_switch: str | None = None
    has_window: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict)


_COMMON: Mapping[str, object] = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}

FAMILIES = (
    Family(
        "llama",
        "LlamaForCausalLM",
        {**_COMMON, "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        {**_COMMON, "max_position_embeddings": 131072, "num_key_value_heads": 8},
        has_window=True,
    ),
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        {**_COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False},
        qkv_bias=True,
        has_window=True,
        window_switch="use_sliding_window",
    ),
    Family(
        "stablelm",
        "StableLmForCausalLM",
        {
            **_COMMON,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 32,
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": False,
            "partial_rotary_factor": 0.25,
        },
        norm=NormKind.LAYER,
        eps_key="layer_norm_eps",
        qkv_bias="use_qkv_bias",
        partial_rotary=True,
        derived_head_dim=True,
        fixed={"use_parallel_residual": False, "qk_layernorm": False},
    ),
)

_STEMS: Mapping[str, str] = {
    "attn.norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def find_family(config: Mapping[str, object]) -> Family:
    """The family that ``config`` (``config.json``) names in ``architectures``, or, without that, in ``model_type``.

    Raises:
        CheckpointError: neither key is there, or their types are wrong.
        UnsupportedModelError: the architecture is none of :data:`FAMILIES`.
    """
    names, model_type = config.get("architectures"), config.get("model_type")
    if names is None and isinstance(model_type, str):
        key, wanted, known = "model_type", model_type, {family.name: family for family in FAMILIES}
    elif isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        key, wanted, known = "architectures", names[0], {family.architecture: family for family in FAMILIES}
    else:
        raise CheckpointError(f"architectures of config.json must be a list of one name, not {names!r}")
    if wanted not in known:
        raise UnsupportedModelError(f"{key} of config.json must be one of {', '.join(known)}, not {wanted!r}")
    return known[wanted]


def read_shape(
    family: Family, config: Mapping[str, object], max_context: int | None
) -> tuple[LlamaShape, list[CheckpointError]]:
    """The shape that ``config`` describes, and every rule that it breaks (the shape is meaningless if any).

    Args:
        family: how to read it.
        config: content of ``config.json``.
        max_context: positions to provide for; by default the model's own, at most :data:`DEFAULT_CONTEXT`.

    Raises:
        UsageError: ``max_context`` is not positive, or more than the model's.
    """
    fields = Fields(config, "config.json", family.defaults)
    for key, value in family.fixed.items():
        if fields.raw(key) not in (None, value):
            fields.fail(key, repr(value), fields.raw(key), unsupported=True)
    if config.get("quantization_config") is not None:
        fields.fail("quantization_config", "absent (weights in FP32, FP16 or BF16)", "present", unsupported=True)

    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    heads = fields.integer("num_attention_heads", 1, MAX_WIDTH)
    kv_heads = fields.optional_integer("num_key_value_heads", 1, MAX_WIDTH) or heads
    if heads % kv_heads:
        fields.fail("num_attention_heads", f"a multiple of num_key_value_heads {kv_heads}", heads)
    head_dim = _head_dim(fields, family, hidden, heads)
    rotary = _rotary(fields, family, head_dim)
    context = _context(fields, family, max_context)
    shape = LlamaShape(
        hidden=hidden,
        ffn=fields.integer("intermediate_size", 1, MAX_WIDTH),
        layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        max_context=context,
        norm=family.norm,
        eps=fields.number(family.eps_key, 0.0, 1.0),
        activation=fields.choice("hidden_act", ACTIVATIONS),
        rotary=rotary,
        qkv_bias=_bias(fields, family.qkv_bias),
        out_bias=_bias(fields, family.out_bias),
        mlp_bias=_bias(fields, family.mlp_bias),
        tied=fields.boolean("tie_word_embeddings"),
    )
    return shape, fields.problems


def checkpoint_names(shape: LlamaShape) -> dict[str, str]:
    """The checkpoint's name of every graph tensor of :func:`~catenary.compiler.importers.llama.tensor_shapes`."""
    names: dict[str, str] = {}
    for name in tensor_shapes(shape):
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            stem, part = rest.rsplit(".", 1)
            names[name] = f"model.layers.{layer}.{_STEMS[stem]}.{part}"
        else:
            names[name] = name.replace("head.norm", "model.norm")
    return names | {EMBED: "model.embed_tokens.weight", HEAD: "lm_head.weight"}


def _bias(fields: Fields, rule: bool | str) -> bool:
    return fields.boolean(rule) if isinstance(rule, str) else rule


def _head_dim(fields: Fields, family: Family, hidden: int, heads: int) -> int:
    given = fields.optional_integer("head_dim", 1, MAX_WIDTH)
    if given is None or family.derived_head_dim:
        if hidden % heads:
            fields.fail("hidden_size", f"a multiple of num_attention_heads {heads}", hidden)
        derived = max(hidden // heads, 1)
        if given is not None and given != derived:
            fields.fail("head_dim", f"hidden_size / num_attention_heads = {derived}", given)
        return derived
    return given


def _rotary(fields: Fields, family: Family, head_dim: int) -> Rotary:
    key = "rope_scaling" if fields.raw("rope_scaling") is not None else "rope_parameters"
    given = fields.mapping(key)
    if any(isinstance(value, dict) for value in given.values()):
        fields.fail(key, "one set of values for all layers", dict(given), unsupported=True)
        given = {}
    defaults: dict[str, object] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    # Older files keep these beside the dictionary instead of in it, and call the type "type".
    elsewhere = {
        "rope_type": given.get("type"),
        "rope_theta": fields.raw("rope_theta"),
        "partial_rotary_factor": fields.raw("partial_rotary_factor"),
        "original_max_position_embeddings": fields.raw("max_position_embeddings"),
    }
    defaults |= {name: value for name, value in elsewhere.items() if value is not None}
    rope = Fields(given, f"{key} in config.json", defaults, fields.problems)
    kind = rope.choice("rope_type", ROPE_TYPES)
    theta = rope.number("rope_theta", 0.0, 1e15)
    fraction = rope.number("partial_rotary_factor", 0.0, 1.0)
    if fraction != 1.0 and not family.partial_rotary:
        rope.fail("partial_rotary_factor", f"1 for {family.architecture}", fraction, unsupported=True)
        fraction = 1.0
    dim = int(head_dim * fraction)
    if dim % 2:
        rope.fail("Rotated part of head_dim", "even", dim, unsupported=True)
    scaling: LinearScaling | Llama3Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(rope.number("factor", 0.0, 1e6))
    elif kind == "llama3":
        low, high = rope.number("low_freq_factor", 0.0, 1e6), rope.number("high_freq_factor", 0.0, 1e6)
        if high <= low:
            rope.fail("high_freq_factor", f"more than low_freq_factor {low:g}", high)
        original = rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT)
        scaling = Llama3Scaling(rope.number("factor", 0.0, 1e6), low, high, original)
    return Rotary(dim, theta, scaling)


def _context(fields: Fields, family: Family, wanted: int | None) -> int:
    before = len(fields.problems)
    most = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
    known = len(fields.problems) == before
    if wanted is not None and wanted < 1:
        raise UsageError(f"Maximum context must be at least 1 token, not {wanted}")
    if wanted is not None and known and wanted > most:
        raise UsageError(f"Maximum context must be at most the model's {most} tokens, not {wanted}")
    context = min(most, DEFAULT_CONTEXT) if wanted is None else wanted
    if family.has_window and (family.window_switch is None or fields.boolean(family.window_switch)):
        window = fields.optional_integer("sliding_window", 1, MAX_CONTEXT)
        if window is not None and window < context:
            fields.fail("sliding_window", f"at least the context of {context} tokens", window, unsupported=True)
    return context
