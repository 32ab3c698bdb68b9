# SPDX-License-Identifier: Apache-2.0
"""A design that says of a component what must hold: the component, free inputs, assumptions, claims and covers.

Everything may be reset in any cycle, the history that a claim looks at included, so a claim also holds after a reset in
the middle, with whatever registers without a reset and memories are left with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, Elaboratable, Module, Mux, Signal, Value, unsigned
from amaranth.hdl._ast import ValueCastable
from amaranth.hdl._ir import Fragment, PortDirection
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2


class _Ready(Elaboratable):  # type: ignore[misc] # Amaranth has no types
    """A component that has been elaborated already."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment


def _signals(fragment: Fragment, path: str = "") -> Iterator[tuple[str, Signal]]:
    """All signals that ``fragment`` assigns to, by path; to names that Amaranth made up (``$signal``) their domain is
    added (``$signal@sync``)."""
    for domain, statements in fragment.statements.items():
        for statement in statements:
            for signal in statement._lhs_signals():
                yield path + signal.name + (f"@{domain}" if signal.name.startswith("$") else ""), signal
    for number, (inner, name, _) in enumerate(fragment.subfragments):
        yield from _signals(inner, f"{path}{name or number}.")


def _memories(fragment: Fragment, path: str = "") -> Iterator[tuple[str, MemoryInstance]]:
    """All memories in ``fragment``, by path."""
    for number, (inner, name, _) in enumerate(fragment.subfragments):
        if isinstance(inner, MemoryInstance):
            yield f"{path}{name or number}", inner
        yield from _memories(inner, f"{path}{name or number}.")


def _inputs(component: Elaboratable) -> dict[str, Any]:
    """Inputs by path."""
    if not hasattr(component, "signature"):  # a FIFO of Amaranth's
        return {name: getattr(component, name) for name in ("w_data", "w_en", "r_en")}
    members = component.signature.flatten(component)
    return {"__".join(map(str, path)): value for path, member, value in members if member.flow is In}


def flat(value: Any) -> Value:
    """The bits of a signal or view."""
    return value.as_value() if isinstance(value, ValueCastable) else Value.cast(value)


class Harness:
    """What is proved, as a design.

    Attributes:
        m: for statements of its own.
        inputs: every free input by name; the prover chooses their values in each cycle.
        claims: what must hold in every cycle up to which the assumptions have held.
        covers: what must be possible while they hold.
    """

    def __init__(self, *, resets: bool = True) -> None:
        self.m = Module()
        self.m.domains.sync = domain = ClockDomain("sync", reset_less=not resets)
        self.inputs: dict[str, Signal] = {}
        self.claims: dict[str, Value] = {}
        self.covers: dict[str, Value] = {"assumptions": Const(1)}
        self.ports: dict[str, tuple[Signal, PortDirection]] = {"clk": (domain.clk, PortDirection.Input)}
        self._assumed: list[Value] = []
        self._memories: dict[str, MemoryInstance] = {}
        if resets:
            self._admit("rst", domain.rst)

    def _admit(self, name: str, signal: Signal) -> None:
        self.inputs[name] = signal
        self.ports[name] = (signal, PortDirection.Input)

    def free(self, shape: Any, name: str) -> Any:
        """Any value, another one in each cycle."""
        signal = Signal(shape, name=name)
        self._admit(name, flat(signal))
        return signal

    def fixed(self, shape: Any, name: str) -> Signal:
        """Any value, the same in all cycles."""
        choice, kept = self.free(shape, name), Signal(shape, name=f"{name}_kept", reset_less=True)
        value, first = Signal(shape, name=f"{name}_value"), Signal(name=f"{name}_first", reset_less=True, init=1)
        self.m.d.comb += value.eq(Mux(first, choice, kept))
        self.m.d.sync += [kept.eq(value), first.eq(0)]
        return value

    def add(
        self, component: Elaboratable, name: str, *, inputs: Mapping[str, Value] | None = None
    ) -> dict[str, Signal]:
        """Put ``component`` in.

        Args:
            component: not elaborated yet; a FIFO of Amaranth's, or something with a signature.
            name: of the submodule.
            inputs: what drives its inputs, by path with two underscores between; free without.

        Returns:
            Every signal inside that something is assigned to, by path, for claims about what cannot be seen outside.
        """
        given = dict(inputs or {})
        fragment = Fragment.get(component, None)
        self.m.submodules[name] = _Ready(fragment)
        for port, value in _inputs(component).items():
            if port in given:
                self.m.d.comb += flat(value).eq(given.pop(port))
            else:
                self._admit(f"{name}__{port}", flat(value))
        if given:
            raise ValueError(f"Inputs must be those of {name}, not {sorted(given)}")
        self._memories |= {f"{name}.{path}": memory for path, memory in _memories(fragment)}
        return dict(_signals(fragment))

    def peek(self, memory: str, address: Value) -> Signal:
        """The word at ``address`` of a memory, given by its path."""
        instance = self._memories[memory]
        word = Signal(instance._data.shape, name=f"word_of_{memory.replace('.', '_')}")
        bits = ceil_log2(instance._data.depth)
        instance.read_port(domain="comb", addr=address[:bits], data=flat(word), en=Const(1, 1), transparent_for=())
        return word

    def past(self, value: Any, name: str) -> Signal:
        """``value`` of the cycle before; 0 in the first one."""
        register = Signal(unsigned(len(flat(value))), name=f"past_{name}")
        self.m.d.sync += register.eq(flat(value))
        return register

    def assume(self, condition: Value) -> None:
        """From the first cycle in which ``condition`` does not hold on, nothing is claimed."""
        self._assumed.append(flat(condition).any())

    def claim(self, name: str, condition: Value) -> None:
        """``condition`` must hold."""
        self.claims[name] = flat(condition).any()

    def implies(self, name: str, premise: Value, condition: Value) -> None:
        """``condition`` must hold where ``premise`` does, and it must be possible that it does."""
        self.claims[name] = ~flat(premise).any() | flat(condition).any()
        self.covers[name] = flat(premise).any()

    def cover(self, name: str, condition: Value) -> None:
        """``condition`` must be possible."""
        self.covers[name] = flat(condition).any()

    def holds(self, stream: Any, name: str) -> None:
        """Claim the rule of streams: what is offered stays as it is until it is taken."""
        waits = self.past(stream.valid & ~stream.ready, f"{name}_waits")
        payload = self.past(stream.payload, f"{name}_payload")
        self.implies(f"{name} stays valid", waits, stream.valid)
        self.implies(f"{name} stays as it is", waits, flat(stream.payload) == payload)

    def keeps(self, stream: Any, name: str) -> None:
        """Assume the rule of streams of whoever supplies ``stream``."""
        waits = self.past(stream.valid & ~stream.ready, f"{name}_waits")
        payload = self.past(stream.payload, f"{name}_payload")
        self.assume(~waits | (stream.valid & (flat(stream.payload) == payload)))

    def design(self) -> Module:
        """The design; its outputs are ``bad``, ``cover_0`` ... and ``claim_0`` ..., 1 where that claim fails."""
        m = self.m
        broken, fine = Signal(), Signal()
        m.d.comb += fine.eq(~broken & Cat(self._assumed).all())
        with m.If(~fine):
            m.d.sync += broken.eq(1)
        for port, condition in self._conditions():
            m.d.comb += port.eq(fine & condition)
        return m

    def _conditions(self) -> Iterator[tuple[Signal, Value]]:
        """Outputs, and what each says."""
        named = {"bad": ~Cat(self.claims.values()).all() if self.claims else Const(0)}
        named |= {f"cover_{number}": condition for number, condition in enumerate(self.covers.values())}
        named |= {f"claim_{number}": ~condition for number, condition in enumerate(self.claims.values())}
        for name, condition in named.items():
            port = Signal(name=name)
            self.ports[name] = (port, PortDirection.Output)
            yield port, condition


Build = Callable[[], Harness]
"""Makes a harness anew: each can be elaborated only once."""
