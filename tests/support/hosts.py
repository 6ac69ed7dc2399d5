"""A node as the transports see it, on a real loop, and a little world of such nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from netcore import _backend
from netcore.address import Endpoint, parse_addr
from netcore.config import NodeConfig
from netcore.errors import DestinationNotFound, OutgoingConnectionError
from netcore.handshake import Accepted, Identity
from netcore.ids import ConnId, make_conn_id
from netcore.keys import KeyRing
from netcore.transport import (
    Attempt,
    Detached,
    Dial,
    HalfOpen,
    Listener,
    Negotiation,
    Resolver,
    Transport,
    protocol_of,
)

#: Long enough for a busy machine; a test that passes never waits for it.
DEADLINE_S = 15.0


@dataclass
class Up:
    """A link as the host was told of it."""

    negotiation: Negotiation
    accepted: Accepted
    stream: Detached

    def write(self, data: bytes) -> None:
        """Send from this end; tests send little."""
        if self.stream.sock is not None:
            self.stream.sock.sendall(data)
        elif self.stream.channel is not None:
            self.stream.channel.write(data)


@dataclass
class Down:
    """A failure as the host was told of it."""

    attempt: Attempt
    error: OutgoingConnectionError


def accept(negotiation: Negotiation) -> None:
    """Take the link."""
    negotiation.answer()
    negotiation.accept()


class FakeHost:
    """What a node is to its transports."""

    def __init__(
        self, loop: Any, node_id: int, transports: Sequence[Transport], **config: Any
    ) -> None:
        self.loop = loop
        self.config = NodeConfig(node_id=node_id, **config)
        self.identity = Identity(
            node_id=node_id,
            epoch=node_id << 32 | 7,
            records=_backend.kernels.Records,
            keys=KeyRing(self.config.secrets),
        )
        self.half_open = HalfOpen(self.config.max_half_open, self.config.accept_budget_per_s)
        self.tls = None
        self.transports = list(transports)
        self.resolver = Resolver(loop)
        self.decision: Callable[[Negotiation], None] = accept
        self.refusal: OutgoingConnectionError | None = None
        self.up: list[Up] = []
        self.down: list[Down] = []
        self.asked: list[Negotiation] = []
        self.accept_errors: list[OSError] = []
        self.dials: list[Dial] = []
        self._numbers = 0
        for transport in self.transports:
            transport.bind(self)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def next_conn_id(self, protocol: int, *, outgoing: bool) -> ConnId:
        self._numbers += 1
        return make_conn_id(protocol, self._numbers, outgoing=outgoing)

    def next_link_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def allow_auth(self, negotiation: Negotiation) -> OutgoingConnectionError | None:
        return self.refusal

    def decide(self, negotiation: Negotiation) -> None:
        self.asked.append(negotiation)
        self.decision(negotiation)

    def established(self, negotiation: Negotiation, accepted: Accepted) -> None:
        up = Up(negotiation, accepted, negotiation.detach())
        up.write(up.stream.unsent)
        self.up.append(up)

    def failed(self, attempt: Attempt, error: OutgoingConnectionError) -> None:
        self.down.append(Down(attempt, error))

    def accept_failed(self, error: OSError) -> None:
        self.accept_errors.append(error)

    # -- what tests do with it ---------------------------------------------------------------------

    def listen(self, text: str) -> Listener:
        endpoint = parse_addr(text).endpoints[0]
        for transport in self.transports:
            if endpoint.kind in transport.kinds:
                return transport.listen(endpoint)
        raise AssertionError(f"no transport takes {endpoint}")

    def dial(
        self, target: str | Endpoint, *, node: int | None = None, parallel: bool = False
    ) -> Dial:
        addr = parse_addr(str(target))
        addr = addr if node is None else addr.with_node_id(node)
        conn_id = self.next_conn_id(protocol_of(addr, self.transports) or 0, outgoing=True)
        dial = Dial(
            self,
            conn_id,
            addr,
            transports=self.transports,
            resolver=self.resolver,
            parallel=parallel,
        )
        dial.start()
        self.dials.append(dial)
        return dial

    @property
    def error(self) -> OutgoingConnectionError:
        """The one failure that there is."""
        assert len(self.down) == 1, self.down
        return self.down[0].error

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
        for dial in self.dials:
            dial.cancel(DestinationNotFound("the test is over"))
        self.half_open.close()
        for up in self.up:
            if up.stream.sock is not None:
                up.stream.sock.close()


@dataclass
class World:
    """Hosts on one loop, which raises what they raise."""

    kernels: ModuleType
    clock: Callable[[], int] | None = None
    hosts: list[FakeHost] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = self.kernels.Loop(
            clock=self.clock, on_error=lambda where, error: self.errors.append(error)
        )

    def host(self, node_id: int, *transports: Transport, **config: Any) -> FakeHost:
        host = FakeHost(self.loop, node_id, transports, **config)
        self.hosts.append(host)
        return host

    def turn(self, timeout_ms: int = 0) -> None:
        """Run one turn; what a callback raised is raised here."""
        self.loop.run_once(timeout_ms)
        if self.errors:
            raise self.errors.pop()

    def until(self, condition: Callable[[], object]) -> None:
        """Run turns until the condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.turn(20)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        for _ in range(3):
            self.turn()
        self.loop.close()


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/dev/fd"))
