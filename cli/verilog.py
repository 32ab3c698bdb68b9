# SPDX-License-Identifier: Apache-2.0
"""``catenary verilog``: the core of an accelerator as Verilog, for designs of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catenary.cli import options

if TYPE_CHECKING:
    from catenary.isa.config import AcceleratorConfig
    from catenary.isa.csr import RegisterMap
    from catenary.sim.rtl.verilog import Design


@dataclass(frozen=True)
class VerilogPort:
    """One port of the top module."""

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class VerilogResult:
    """JSON of the verb.

    Attributes:
        top: name of the top module.
        files: what was written, by path.
        ports: of the top module, clock and reset included.
        config_hash: of the accelerator; a program is for the same hash.
    """

    top: str
    files: list[str]
    ports: list[VerilogPort]
    config_hash: str


def verb(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write to.")],
    accel: options.Accel = "small",
    json: options.Json = False,
    debug: options.Debug = False,
) -> VerilogResult:
    """Write an accelerator's core as Verilog, with its register map and a description of its ports."""
    import catenary
    from catenary.cli.progress import stages

    with stages() as progress:
        result = catenary.verilog(output, accel=accel, progress=progress)
    if not json:
        typer.echo(f"{result.top}: {len(result.ports)} ports, configuration {result.config_hash}")
        for name in result.files:
            typer.echo(f"  {name}")
    return result


def write_verilog(folder: Path, config: AcceleratorConfig, design: Design) -> VerilogResult:
    """Write ``design``, the core of ``config``, and what goes with it to ``folder``.

    Raises:
        OSError: the folder cannot be written.
    """
    from catenary.isa.registers import register_map

    registers = register_map(config)
    ports = [VerilogPort(name, "input", 1) for name in ("clk", "rst")]
    ports += [VerilogPort(port.name, "output" if port.output else "input", port.width) for port in design.ports]
    texts = {
        f"{design.top}.sv": design.text,
        f"{design.top}_registers.h": c_header(registers, config),
        "registers.md": f"# Registers of {config.name}\n\n{registers.render()}\n",
        "README.md": readme(config, design),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return VerilogResult(design.top, [str(folder / name) for name in texts], ports, config.hash)


def c_header(registers: RegisterMap, config: AcceleratorConfig) -> str:
    """The register map as C macros: byte addresses, shifts and masks, and the values that identify the core."""
    guard = "CATENARY_REGISTERS_H"
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* Registers of the accelerator {config.name}, behind its AXI4-Lite port. Made by `catenary verilog`. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        *(
            f"#define CATENARY_EXPECTED_{name} UINT64_C({registers[name].register.reset:#x})"
            for name in ("IDENTITY", "ISA_VERSION", "CONFIG_HASH")
        ),
        f"#define CATENARY_LINE_BYTES {config.line_bytes}",
    ]
    seen: set[int] = set()
    for place in registers:
        lines += ["", f"#define CATENARY_{place.name} {place.address:#05x}"]
        if id(place.register) in seen:
            continue  # the fields of an array's registers are alike
        seen.add(id(place.register))
        for part in place.register.layout:
            name = f"CATENARY_{place.name}_{part.name.upper()}"
            if part.name != "reserved":
                suffix = "ULL" if place.register.width == 64 else "U"
                lines.append(f"#define {name}_SHIFT {part.offset}")
                lines.append(f"#define {name}_MASK {((1 << part.width) - 1) << part.offset:#x}{suffix}")
            if part.field.enum is not None:
                lines += [f"#define {name}_{member.name} {member.value}" for member in part.field.enum]
    return "\n".join([*lines, "", "#endif", ""])


def readme(config: AcceleratorConfig, design: Design) -> str:
    """What someone needs to know who puts the core into a design."""
    widths = ", ".join(f"{8 * width}" for width in config.port_bytes)
    parameters = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items())
    ports = "\n".join(f"| `{port.name}` | {'out' if port.output else 'in'} | {port.width} |" for port in design.ports)
    managers = "AXI4 manager" + ("s" if len(config.port_bytes) > 1 else "")
    return f"""# {design.top}

The core of the accelerator `{config.name}`. It runs programs that `catenary compile` made for the configuration
`{config.hash}`; the host compares that hash, which the core has in a register, before it starts one.

- One clock, `clk`, and a synchronous reset, `rst`, active high.
- `control`: AXI4-Lite, 32 bits. The registers are in [registers.md](registers.md), and for C in
  [{design.top}_registers.h]({design.top}_registers.h). A host writes the settings, then `start`, and polls STATUS.
- `memory`: {len(config.port_bytes)} {managers} of {widths} bits. Each has an address space of its own that begins at 0
  and holds {config.memory_lines} beats. A *line* of memory is one beat of every port, in order.
- `trace`: what each unit executes, for a logic analyser or nothing.

Signals are named as in the AMBA AXI specification (ARM IHI 0022) behind the name of the port. Bits of the trace are:

| field | of port | bits |
|---|---|---|
{_trace_rows(design)}

| parameter | value |
|---|---|
{parameters}

| port | direction | bits |
|---|---|---|
| `clk` | in | 1 |
| `rst` | in | 1 |
{ports}
"""


def _trace_rows(design: Design) -> str:
    leaves = [
        field
        for port in design.ports
        for field in port.fields
        if field.path.endswith((".active", ".pc")) and field.path.startswith("trace")
    ]
    return "\n".join(
        f"| {field.path} | `{field.port}` | {field.offset + field.width - 1}:{field.offset} |" for field in leaves
    )
