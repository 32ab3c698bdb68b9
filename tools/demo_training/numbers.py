# SPDX-License-Identifier: Apache-2.0
"""The compiler's own pruning and rounding, put into a model in training.

Masks, steps and code ranges are the compiler's. A weight is rounded to the nearest code of the final step, where the
compiler rounds just before it fits the scale of the row: about one code in a hundred differs by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from catenary.compiler.compress import Compress
from catenary.compiler.importers.families import checkpoint_names, find_family, read_shape
from catenary.compiler.importers.llama import EMBED, HEAD, LlamaShape, build
from catenary.isa.graph import Graph
from catenary.isa.tensors import FloatFormat, FloatTensor, QuantTensor
from tools.demo_training.files import model_config
from tools.demo_training.model import DemoModel, Linear


def model_graph(model: DemoModel) -> Graph:
    """The float graph of a model without experts, as the importer would build it from its checkpoint, but in FP32."""
    shape = _compiler_shape(model)
    state = {name: value.detach() for name, value in model.named_parameters()}
    for name, linear in model.model.named_modules(prefix="model"):
        if isinstance(linear, Linear):
            state[f"{name}.weight"] = state[f"{name}.weight"] * linear.learns
    names = checkpoint_names(shape)
    names[HEAD] = names[EMBED]
    tensors = {name: FloatTensor(FloatFormat.F32, state[source].cpu().numpy()) for name, source in names.items()}
    return build(shape, tensors, None, ())


def set_numbers(model: DemoModel, weight_bits: int, sparsity: str) -> None:
    """Give every linear layer the mask, steps and code ranges that the compiler chooses for its present weights.

    Args:
        model: without experts.
        weight_bits: 4 or 8.
        sparsity: ``none`` or ``N:16``, as of :class:`~catenary.compiler.compress.Compress`; a settled mask stays.
    """
    quantised = Compress(weight_bits=weight_bits, sparsity=sparsity).apply(model_graph(model)).tensors
    for name, linear in _linears(model):
        tensor = quantised[name]
        if isinstance(tensor, QuantTensor):
            _set(linear, tensor)


def settle_masks(model: DemoModel) -> None:
    """Drop for good what the masks drop at present: those weights count as zeros, and learn no more."""
    for linear in _pruned_linears(model):
        linear.learns.copy_(linear.mask)


def decay_dropped(model: DemoModel, share: float) -> None:
    """Shrink the weights that the masks drop at present by ``share``: the regularisation of SR-STE."""
    with torch.no_grad():
        linears = list(_pruned_linears(model))
        kept = torch._foreach_mul([linear.mask for linear in linears], share)
        torch._foreach_add_(kept, 1.0 - share)
        torch._foreach_mul_([linear.weight for linear in linears], kept)


def kept_share(model: DemoModel) -> float:
    """Share of the weights of the layers' linears that are not zero."""
    weights = [linear.weight * linear.mask for linear in _pruned_linears(model)]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def _compiler_shape(model: DemoModel) -> LlamaShape:
    config = model_config(model.shape)
    shape, problems = read_shape(find_family(config), config, None)
    for problem in problems:
        raise problem
    return shape


def _linears(model: DemoModel) -> Iterator[tuple[str, Linear]]:
    """Every linear layer by the name of its weight in the graph."""
    modules = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
    for name, source in checkpoint_names(_compiler_shape(model)).items():
        if source in modules:
            yield name, modules[source]


def _pruned_linears(model: DemoModel) -> Iterator[Linear]:
    """The linear layers that may be pruned: all but the head."""
    for module in model.model.modules():
        if isinstance(module, Linear):
            yield module


def _set(linear: Linear, tensor: QuantTensor) -> None:
    """Copy mask and grid: a weight is ``integer * step``, the integer from ``low`` to ``high``."""
    columns = tensor.columns

    def wide(per_group: np.ndarray) -> Tensor:
        spread = np.repeat(per_group.astype(np.float32), min(tensor.group, columns), axis=1)[:, :columns]
        return torch.from_numpy(np.ascontiguousarray(spread))

    scales, zeros = wide(tensor.scales), wide(tensor.zeros)
    limit = torch.floor(127 / scales)  # |w| <= 127 in units of the row's scale
    signed = tensor.bits == 8
    low = -limit if signed else torch.maximum(-zeros, -limit)
    high = limit if signed else torch.minimum(2**tensor.bits - 1 - zeros, limit)
    linear.step.copy_(scales * torch.from_numpy(tensor.channel_scales)[:, None])
    linear.low.copy_(low)
    linear.high.copy_(high)
    linear.mask.copy_(torch.from_numpy(tensor.mask[:, :columns].astype(np.float32)))
