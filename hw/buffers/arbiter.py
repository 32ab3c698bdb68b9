# SPDX-License-Identifier: Apache-2.0
"""A round-robin arbiter between streams of requests to one port of a buffer."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Arbiter(wiring.Component):
    """Passes on one request a cycle; among clients that ask at once, whoever was served longest ago comes first.

    The decision needs no register stage: a client that asks alone is served at once. ``ready`` depends on the ``valid``
    of every client, so no client may derive its ``valid`` from its ``ready``.

    Parameters:
        shape: of a request.
        clients: number of clients.

    Members:
        requests: the clients' requests.
        payload: the accepted request.
        valid: one was accepted in this cycle.
        client: whose it is.
    """

    def __init__(self, shape, clients: int):
        self.clients = clients
        super().__init__(
            {
                "requests": In(stream.Signature(shape)).array(clients),
                "payload": Out(shape),
                "valid": Out(1),
                "client": Out(range(clients)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        last = Signal(range(self.clients), init=self.clients - 1)
        asking = Array(request.valid for request in self.requests)
        with m.Switch(last):
            for served in range(self.clients):
                with m.Case(served):
                    # The last assignment wins: later in this loop means earlier in turn.
                    for step in range(self.clients, 0, -1):
                        candidate = (served + step) % self.clients
                        with m.If(asking[candidate]):
                            m.d.comb += self.client.eq(candidate)
        m.d.comb += self.valid.eq(0)
        for index, request in enumerate(self.requests):
            m.d.comb += request.ready.eq(request.valid & (self.client == index))
            with m.If(request.valid):
                m.d.comb += self.valid.eq(1)
        with m.Switch(self.client):
            for index, request in enumerate(self.requests):
                with m.Case(index):
                    m.d.comb += self.payload.eq(request.payload)
        with m.If(self.valid):
            m.d.sync += last.eq(self.client)
        return m
