# SPDX-License-Identifier: Apache-2.0
"""The compiler: checkpoints in, programs out."""

from catenary.compiler.pipeline import CompileOptions, compile_graph, compile_model

__all__ = ["CompileOptions", "compile_graph", "compile_model"]
