# SPDX-License-Identifier: Apache-2.0
"""Emission of the steps that are one instruction each: linear layers, norms, quantisation, elementwise functions."""

from __future__ import annotations

from catenary.compiler.emit_frame import Frame
from catenary.compiler.schedule import LinearStep
from catenary.isa.fields import Operand
from catenary.isa.graph import Apply, Combine, Norm, Quantize
from catenary.isa.instructions import Apply as ApplyInstruction
from catenary.isa.instructions import Combine as CombineInstruction
from catenary.isa.instructions import Instruction, MatrixMatrix, MatrixVector, Quant
from catenary.isa.instructions import Norm as NormInstruction
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction


def linear_instruction(frame: Frame, x: str, rows: Operand, out: Operand, out_stride: int) -> Instruction:
    """MV for one token, MM for a register's worth of tokens."""
    slot = frame.slot(x)
    assert slot.scales is not None
    kind = MatrixMatrix if frame.tokens.reg else MatrixVector
    return kind(
        act=Operand(0, slot.start), act_stride=slot.stride, tokens=frame.tokens, depth=frame.width(x), rows=rows,
        out=out, out_stride=out_stride, scales=Operand(0, slot.scales.start),
    )  # fmt: skip


def emit_linear(frame: Frame, step: LinearStep) -> None:
    """Sibling linear layers, each as one matrix instruction: what follows one of them need not wait for the others."""
    x = frame.slot(step.x)
    assert x.scales is not None
    for node in step.nodes:
        out = frame.slot(node.out)
        rows = Operand(0, frame.width(node.out))
        insn = linear_instruction(frame, step.x, rows, Operand(0, out.start), out.stride)
        frame.emit(insn, [x.region, x.scales], [out.region])


def emit_node(frame: Frame, node: Norm | Quantize | Apply | Combine) -> None:
    """A node that is one vector instruction."""
    out = frame.slot(node.out)
    width = frame.width(node.out)
    match node:
        case Norm():
            x, start = frame.slot(node.x), frame.buffers.constants.start
            constants = frame.plans.memory.constants[frame.schedule.stage.name]
            bias = 0 if node.bias is None else start + constants.offsets[node.bias]
            insn: Instruction = NormInstruction(
                function=NormFunction[node.kind.name], dst=Operand(0, out.start), dst_stride=out.stride,
                x=frame.at(node.x), x_stride=x.stride, rows=frame.tokens, elements=width,
                weight=Operand(0, start + constants.offsets[node.weight]), has_bias=node.bias is not None,
                bias=Operand(0, bias), eps=node.eps,
            )  # fmt: skip
            parts = {constants.part(template) for template in (node.weight, node.bias) if template is not None}
            frame.emit(insn, [x.region, *(frame.constants(*part) for part in sorted(parts))], [out.region])
        case Quantize():
            x = frame.slot(node.x)
            assert out.scales is not None
            insn = Quant(
                dst=Operand(0, out.start), dst_stride=out.stride, x=frame.at(node.x), x_stride=x.stride,
                rows=frame.tokens, parts=1, elements=width, scales=Operand(0, out.scales.start),
                scale_stride=1, scale_step=1,
            )  # fmt: skip
            frame.emit(insn, [x.region], [out.region, out.scales])
        case Apply():
            x = frame.slot(node.x)
            insn = ApplyInstruction(
                function=ApplyFunction[node.function.name], dst=Operand(0, out.start), dst_stride=out.stride,
                x=frame.at(node.x), x_stride=x.stride, rows=frame.tokens, elements=Operand(0, width),
                parameter=node.parameter,
            )  # fmt: skip
            frame.emit(insn, [x.region], [out.region])
        case Combine():
            a, b = frame.slot(node.a), frame.slot(node.b)
            insn = CombineInstruction(
                function=CombineFunction[node.function.name], dst=Operand(0, out.start), dst_stride=out.stride,
                a=frame.at(node.a), a_stride=a.stride, b=frame.at(node.b), b_stride=b.stride,
                rows=frame.tokens, elements=Operand(0, width),
            )  # fmt: skip
            frame.emit(insn, [a.region, b.region], [out.region])
