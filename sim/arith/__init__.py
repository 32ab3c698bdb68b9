# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of Catenary: the one definition that every device matches bit for bit (``docs/numerics.md``)."""

from catenary.isa.numbers import MAX_REDUCTION
from catenary.sim.arith.attention import SoftmaxWeights, attention_scores, merge_parts, softmax_weights
from catenary.sim.arith.fp32 import (
    NAN,
    TINY,
    add,
    canonical_sum,
    flush,
    from_int,
    maximum,
    minimum,
    mul,
    sub,
)
from catenary.sim.arith.functions import erf, exp, reciprocal, rsqrt, sigmoid, tanh
from catenary.sim.arith.matrix import PreparedWeights, ReductionTooLongError, integer_matmul
from catenary.sim.arith.quantize import Quantized, linear_epilogue, quantize
from catenary.sim.arith.quiet import quiet
from catenary.sim.arith.select import argmax, top_k
from catenary.sim.arith.vector import gelu_erf, gelu_tanh, layer_norm, relu, rms_norm, rope, silu, soft_cap

__all__ = [
    "MAX_REDUCTION",
    "NAN",
    "TINY",
    "PreparedWeights",
    "Quantized",
    "ReductionTooLongError",
    "SoftmaxWeights",
    "add",
    "argmax",
    "attention_scores",
    "canonical_sum",
    "erf",
    "exp",
    "flush",
    "from_int",
    "gelu_erf",
    "gelu_tanh",
    "integer_matmul",
    "layer_norm",
    "linear_epilogue",
    "maximum",
    "merge_parts",
    "minimum",
    "mul",
    "quantize",
    "quiet",
    "reciprocal",
    "relu",
    "rms_norm",
    "rope",
    "rsqrt",
    "sigmoid",
    "silu",
    "soft_cap",
    "softmax_weights",
    "sub",
    "tanh",
    "top_k",
]
