# SPDX-License-Identifier: Apache-2.0
"""Refuse arithmetic whose result depends on the library, the machine or the batch.

Usage: python tools/lint_numerics.py PATH...

The arithmetic is defined once, in sim/arith, and other code compares with it bit for bit. A NumPy or torch reduction
adds in an order of its own choosing; a library's exp or sqrt differs between versions; Triton's `tl.sum`, `tl.exp` and
`/` are approximate or unordered. This lint finds them in the syntax tree of every Python file under PATH.

A use that is right carries a comment at the end of the line where the expression starts or ends: `# exact: <reason>`
where every order gives the same bits (integers, say), `# host: <reason>` for work on results that no device repeats
(sampling, perplexity). The FP32 yardstick (EXEMPT) is allowed everything: it is compared with tolerances.
Exit status: 0 clean, 1 findings (one per line, `file:line: message`), 2 bad usage.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXEMPT: Final = ("sim/float_graph.py",)
"""The FP32 yardstick, by the end of its path."""

MATMUL_HOME: Final = "sim/arith/matrix.py"
"""The one file that may use a float matrix product; it says why that is exact."""

REDUCTIONS: Final = frozenset({
    "average", "convolve", "corrcoef", "correlate", "cov", "cumprod", "cumsum", "dot", "einsum", "inner", "log_softmax",
    "logaddexp", "logsumexp", "mean", "median", "nanmean", "nanprod", "nanstd", "nansum", "nanvar", "norm", "outer",
    "prod", "softmax", "std", "sum", "tensordot", "trace", "trapezoid", "var", "vdot",
})  # fmt: skip
FUNCTIONS: Final = frozenset({
    "acos", "arccos", "arcsin", "arctan", "arctan2", "asin", "atan", "atan2", "cbrt", "cos", "cosh", "erf", "erfc",
    "exp", "exp2", "expm1", "float_power", "gelu", "hypot", "log", "log10", "log1p", "log2", "pow", "power",
    "reciprocal", "rsqrt", "sigmoid", "silu", "sin", "sinh", "sqrt", "tan", "tanh",
})  # fmt: skip
PRODUCTS: Final = frozenset({"matmul", "bmm", "mm", "baddbmm", "addmm", "linear", "vecdot", "matvec", "vecmat"})
METHODS: Final = frozenset(
    {"sum", "mean", "dot", "prod", "cumsum", "cumprod", "var", "std", "trace", "matmul", "softmax", "norm"}
)
"""Methods of arrays and tensors that add in an order of their own."""

UFUNC_REDUCTIONS: Final = frozenset({"reduce", "reduceat", "accumulate"})
ORDERED_UFUNCS: Final = frozenset({"add", "multiply", "subtract", "divide", "logaddexp"})
"""Ufuncs whose ``reduce`` depends on the order; maxima and logical operations do not."""

TRITON_ONLY: Final = frozenset({"dot", "fdiv", "div_rn", "sqrt_rn", "fma", "reduce", "associative_scan"})
LIBRARIES: Final = {"numpy": "np"} | {name: name for name in ("math", "cmath", "scipy", "torch", "triton")}
ALLOWED: Final = frozenset({"math.prod"})
"""Multiplies in the order of its argument, like a loop."""

_MARK: Final = re.compile(r"#\s*(?:exact|host):(.*)$")


@dataclass(frozen=True, order=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class _Visitor(ast.NodeVisitor):
    """Collects (first line, last line, message) of every banned expression."""

    def __init__(self, allow_matmul: bool) -> None:
        self.allow_matmul = allow_matmul
        self.found: list[tuple[int, int, str]] = []
        self.names: dict[str, str] = {}  # local name -> dotted origin, from the imports
        self.triton_depth = 0

    def add(self, node: ast.expr | ast.stmt, message: str) -> None:
        self.found.append((node.lineno, node.end_lineno or node.lineno, message))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            package = alias.name.split(".")[0]
            self.names[alias.asname or package] = alias.name if alias.asname else package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def dotted(self, node: ast.expr) -> str:
        """The full name of ``node`` if it is one reached through an import, else an empty string."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.names:
            return ""
        return ".".join([self.names[node.id], *reversed(parts)])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        is_kernel = any("triton" in self.dotted(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list)
        self.triton_depth += is_kernel
        self.generic_visit(node)
        self.triton_depth -= is_kernel

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._operator(node, node.op)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._operator(node, node.op)
        self.generic_visit(node)

    def _operator(self, node: ast.BinOp | ast.AugAssign, operator: ast.operator) -> None:
        if isinstance(operator, ast.MatMult) and not self.allow_matmul:
            self.add(node, "`@` adds in the library's order; use catenary.sim.arith.integer_matmul")
        if isinstance(operator, ast.Div) and self.triton_depth:
            self.add(node, "`/` in a Triton kernel is approximate; use the reciprocal of the number contract")

    def visit_Call(self, node: ast.Call) -> None:
        message = self._call(node.func)
        if message:
            self.add(node, message)
        self.generic_visit(node)

    def _call(self, function: ast.expr) -> str:
        name = self.dotted(function)
        library, _, rest = name.partition(".")
        if library in LIBRARIES and rest and name not in ALLOWED:
            return self._library_call(LIBRARIES[library], rest)
        if name or not isinstance(function, ast.Attribute):
            return ""  # our own functions, builtins and local names
        if function.attr in METHODS:
            return f"`.{function.attr}()` adds in the library's order; use catenary.sim.arith.canonical_sum"
        return ""

    def _library_call(self, short: str, rest: str) -> str:
        last = rest.rsplit(".", 1)[-1]
        shown = f"{short}.{rest}"
        if short == "triton":
            language = rest.removeprefix("language.")
            shown = f"tl.{language}" if language != rest else shown
            if last in TRITON_ONLY:
                return f"`{shown}` is not reproducible; write the steps of the number contract"
        if "linalg" in rest.split(".") or "fft" in rest.split("."):
            return f"`{shown}` depends on the library; the number contract has no such operation"
        if last in UFUNC_REDUCTIONS:
            ufunc = rest.split(".")[-2] if "." in rest else ""
            ordered = ufunc in ORDERED_UFUNCS
            return f"`{shown}` adds in the library's order; use catenary.sim.arith.canonical_sum" if ordered else ""
        if last in REDUCTIONS:
            return f"`{shown}` adds in the library's order; use catenary.sim.arith.canonical_sum"
        if last in FUNCTIONS:
            return f"`{shown}` differs between libraries; use the function unit of catenary.sim.arith"
        if last in PRODUCTS and not self.allow_matmul:
            return f"`{shown}` adds in the library's order; use catenary.sim.arith.integer_matmul"
        return ""


def _marks(source: str) -> dict[int, str]:
    """Reasons by line, from the comments `# exact: <reason>` and `# host: <reason>`."""
    marks: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (match := _MARK.search(token.string)):
            marks[token.start[0]] = match.group(1).strip()
    return marks


def check_source(source: str, path: str) -> list[Finding]:
    """Findings in one file.

    Args:
        source: text of the file.
        path: its path with forward slashes, for messages and for the files with rules of their own.
    """
    if path.endswith(EXEMPT):
        return []
    visitor = _Visitor(allow_matmul=path.endswith(MATMUL_HOME))
    visitor.visit(ast.parse(source, filename=path))
    marks = _marks(source)
    findings = {
        Finding(path, line, "the mark must be followed by a reason") for line, reason in marks.items() if not reason
    }
    used: set[int] = set()
    for first, last, message in visitor.found:
        marked = {first, last} & marks.keys()
        used |= marked
        if not marked:
            findings.add(Finding(path, first, message))
    findings |= {
        Finding(path, line, "the mark must stand at a use that would be refused without it, not here")
        for line, reason in marks.items()
        if reason and line not in used
    }
    return sorted(findings)


def python_files(paths: list[str]) -> Iterator[Path]:
    """Every Python file among and below ``paths``, in order.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise FileNotFoundError(f"Path must exist, not {text}")
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(arguments: list[str]) -> int:
    """Check the files and print what was found."""
    if not arguments:
        print("usage: lint_numerics.py PATH...", file=sys.stderr)
        return 2
    try:
        findings = [f for p in python_files(arguments) for f in check_source(p.read_text("utf-8"), p.as_posix())]
    except (FileNotFoundError, SyntaxError) as error:
        print(error, file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
