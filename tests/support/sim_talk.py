"""A small simulated world that talks a lot, for tests that compare whole runs."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

from netcore import LocalError, NetworkBehavior, RouteRule
from netcore._backend import BackendName
from netcore.sim import Network, random_faults

SECRET = b"0123456789abcdef"


class Talk(NetworkBehavior):
    """Sends, replies and calls at random."""

    service_id = 10

    def __init__(self, node_id: int, until_ms: int = 1 << 40) -> None:
        self.rnd = Random(node_id)
        self.until_ms = until_ms

    def on_tick(self, agent: Any, ts_ms: int, interval_ms: int) -> None:
        for _ in range(self.rnd.randrange(3) if ts_ms < self.until_ms else 0):
            payload = bytes(self.rnd.choice([1, 100, 5_000, 60_000]))
            try_to(agent.send_to_node, self.rnd.randrange(1, 9), payload)
            try_to(agent.call, RouteRule.service(), 10, b"x", lambda answer: None, 2_000)

    def on_message(self, agent: Any, message: Any) -> None:
        if self.rnd.random() < 0.3:
            try_to(agent.reply, message, b"r")

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        try_to(res.ok, bytes(self.rnd.randrange(3_000)))
        return True


def try_to(send: Any, *args: Any) -> None:
    """Send, if that is possible now."""
    with contextlib.suppress(LocalError):
        send(*args)


def live(seed: int, backend: BackendName) -> str:
    """Return the hash of half a minute of talk over bad paths with faults."""
    rnd = Random(seed)
    secret = SECRET if seed % 2 else None
    with Network(seed, backend=backend, secret=secret, window_bytes=20_000) as net:
        net.topology.random(8, lambda node_id: [Talk(node_id)])
        for link in net.links:
            net.link(
                link.a,
                link.b,
                latency_ms=rnd.choice([0, 1, 5, 50]),
                jitter_ms=rnd.choice([0, 10]),
                loss=rnd.choice([0.0, 0.05]),
                bandwidth_kbps=rnd.choice([0, 500, 10_000]),
            )
        net.run(3_000)
        net.play(random_faults(net, 20_000))
        net.run(5_000)
        return net.hash
