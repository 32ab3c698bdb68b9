# SPDX-License-Identifier: Apache-2.0
"""The numerics lint finds what is not reproducible, and only that."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import lint_numerics

HEAD = """\
import math
import numpy as np
import numpy.linalg as la
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from math import exp as e
from numpy import einsum
"""


def check(code, path="sim/example.py"):
    lines = HEAD.count("\n")
    findings = lint_numerics.check_source(HEAD + code, path)
    return [(f.line - lines, f.message) for f in findings]


@pytest.mark.parametrize(
    "code, shown",
    [
        ("np.sum(x)", "`np.sum`"),
        ("np.mean(x, axis=-1)", "`np.mean`"),
        ("np.dot(x, y)", "`np.dot`"),
        ("np.exp(x)", "`np.exp`"),
        ("np.log(x)", "`np.log`"),
        ("np.tanh(x)", "`np.tanh`"),
        ("np.sqrt(x)", "`np.sqrt`"),
        ("np.var(x)", "`np.var`"),
        ("np.std(x)", "`np.std`"),
        ("np.linalg.norm(x)", "`np.linalg.norm`"),
        ("la.inv(x)", "`np.linalg.inv`"),
        ("einsum('ij,kj->ik', x, y)", "`np.einsum`"),
        ("np.add.reduce(x)", "`np.add.reduce`"),
        ("np.add.reduceat(x, i)", "`np.add.reduceat`"),
        ("np.matmul(x, y)", "`np.matmul`"),
        ("x @ y", "`@`"),
        ("x @= y", "`@`"),
        ("x.sum()", "`.sum()`"),
        ("(x * x).mean(axis=-1)", "`.mean()`"),
        ("x[0].dot(y)", "`.dot()`"),
        ("math.exp(x)", "`math.exp`"),
        ("e(x)", "`math.exp`"),
        ("torch.sum(x)", "`torch.sum`"),
        ("torch.softmax(x, -1)", "`torch.softmax`"),
        ("F.silu(x)", "`torch.nn.functional.silu`"),
        ("torch.matmul(x, y)", "`torch.matmul`"),
        ("tl.sum(x, 0)", "`tl.sum`"),
        ("tl.exp(x)", "`tl.exp`"),
        ("tl.sqrt(x)", "`tl.sqrt`"),
        ("tl.math.rsqrt(x)", "`tl.math.rsqrt`"),
        ("tl.dot(x, y)", "`tl.dot`"),
        ("@triton.jit\ndef kernel(x):\n    return x / 3", "`/` in a Triton kernel"),
        ("@triton.jit\ndef kernel(x):\n    x /= 3", "`/` in a Triton kernel"),
        ("@triton.autotune(configs=[])\n@triton.jit\ndef kernel(x):\n    return x / 3", "`/` in a Triton kernel"),
    ],
)
def test_found(code, shown):
    findings = check(code)
    assert len(findings) == 1
    assert findings[0][0] == code.count("\n") + 1
    assert findings[0][1].startswith(shown)


@pytest.mark.parametrize(
    "code",
    [
        "np.maximum.reduce(x)",
        "np.fmax.reduce(x, axis=-1)",
        "np.rint(x)",
        "np.add(x, y)",
        "x.max()",
        "x / 3",
        "def sigmoid(x): ...\nsigmoid(x)",
        "arith.exp(x)",
        "math.prod(shape)",
        "math.ceil(x)",
        "sum(lengths)",
        "@property\ndef half(self): return self.x / 2",
        "@triton.jit\ndef kernel(x): return x // 3",
        "'np.sum(x) @ y'",
    ],
)
def test_not_found(code):
    assert check(code) == []


@pytest.mark.parametrize("word", ["exact", "host"])
def test_a_mark_with_a_reason_allows_the_line(word):
    assert check(f"np.sum(x)  # {word}: counts of bytes, int64") == []
    assert check(f"np.sum(\n    x,\n)  # {word}: int64") == []
    assert check(f"np.sum(  # {word}: int64\n    x,\n)") == []


@pytest.mark.parametrize("word", ["exact", "host"])
def test_a_mark_without_a_reason_is_refused_itself(word):
    assert check(f"np.sum(x)  # {word}:") == [(1, "the mark must be followed by a reason")]


def test_a_mark_where_nothing_is_refused_is_stale():
    message = "the mark must stand at a use that would be refused without it, not here"
    assert check("x = 1  # exact: int") == [(1, message)]


def test_a_mark_serves_its_own_line_only():
    assert [line for line, _ in check("np.sum(x)  # exact: int64\nnp.sum(y)")] == [2]


def test_every_operation_of_a_line_is_found():
    assert len(check("np.exp(x).sum()")) == 2


def test_files_with_rules_of_their_own():
    assert check("np.exp(x).sum()", "src/sim/float_graph.py") == []
    assert check("np.matmul(x, y)", "sim/arith/matrix.py") == []
    assert check("x @ y", "sim/arith/matrix.py") == []
    assert len(check("np.sum(x)", "sim/arith/matrix.py")) == 1


def run(*arguments):
    return subprocess.run(
        [sys.executable, lint_numerics.__file__, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_command_line(tmp_path):
    (tmp_path / "room").mkdir()
    bad = tmp_path / "room" / "bad.py"
    bad.write_text("import numpy as np\n\nnp.exp(1)\n", encoding="utf-8")
    (tmp_path / "good.py").write_text("x = 1\n", encoding="utf-8")
    result = run(str(tmp_path))
    assert result.returncode == 1
    message = "`np.exp` differs between libraries; use the function unit of catenary.sim.arith"
    assert result.stdout == f"{bad.as_posix()}:3: {message}\n"
    assert run(str(tmp_path / "good.py")).returncode == 0
    assert run().returncode == 2
    missing = run(str(tmp_path / "absent"))
    assert (missing.returncode, missing.stderr) == (2, f"Path must exist, not {tmp_path / 'absent'}\n")


def test_the_arithmetic_itself_is_clean():
    root = Path(__file__).resolve().parents[2]
    assert run(str(root / "sim" / "arith")).stdout == ""
