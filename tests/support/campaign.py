"""Random lives of many nodes: their links come and go, their messages flow, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from netcore import LocalError, Node, RouteRule
from netcore._backend import BackendName
from support.virtual import Cluster, Log, Spy, check_log

SECRET, OTHER_SECRET = b"0123456789abcdef", b"fedcba9876543210"


class Campaign:
    """Random dials, closes, freezes, restarts and ends of nodes."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.logs: dict[Node, Log] = {}
        self.dialled: dict[Node, list[int]] = {}
        for node_id in rng.sample(range(100), 4):
            self.add(node_id)

    def add(self, node_id: int) -> None:
        log = Log()
        node = self.cluster.add(
            node_id,
            Spy(10, log, connected=self.sometimes_close),
            Spy(20, log, check_in=self.sometimes_refuse, check_out=self.sometimes_refuse),
            secret=OTHER_SECRET if self.rng.random() < 0.1 else SECRET,
            handshake_timeout_ms=500,
            dead_ms=1_000,
        )
        self.logs[node], self.dialled[node] = log, []

    def sometimes_close(self, agent: object, conn: object) -> None:
        if self.rng.random() < 0.1:
            conn.close()  # type: ignore[attr-defined]

    def sometimes_refuse(self, node: int | None, conn_id: int) -> None:
        if self.rng.random() < 0.1:
            raise ValueError("no")

    def living(self) -> list[Node]:
        return [node for node in self.logs if not node.closed]

    def step(self) -> None:
        action = self.rng.choice([self.dial] * 6 + [self.cross, self.close_links, self.end_node])
        action()
        if self.rng.random() < 0.1:
            self.cluster.frozen ^= {self.rng.choice(self.living())}
        if self.rng.random() < 0.7:
            self.cluster.advance(self.rng.choice([0, 0, 1, 10, 100, 700]))

    def dial(self) -> None:
        node, other = self.rng.choice(self.living()), self.rng.choice(list(self.logs))
        addr = other.addrs[0]  # perhaps its own, perhaps that of a node that is gone
        chance = self.rng.random()
        if chance < 0.1:
            addr = addr.with_node_id(None)
        elif chance < 0.2:
            addr = addr.with_node_id(self.rng.randrange(100))
        self.dialled[node].append(node.connect(addr, parallel=self.rng.random() < 0.2))
        if self.rng.random() < 0.1:
            node.agent(10).close_conn(self.rng.choice(self.dialled[node]))

    def cross(self) -> None:
        pair = self.rng.sample(self.living(), 2) if len(self.living()) > 1 else []
        for one, other in (pair, pair[::-1]) if pair else ():
            self.dialled[one].append(self.cluster.dial(one, other))

    def close_links(self) -> None:
        node = self.rng.choice(self.living())
        for link in node.connections:
            if self.rng.random() < 0.5:
                node.agent(20).close_conn(link.conn_id)

    def end_node(self) -> None:
        if self.rng.random() < 0.5:
            node = self.rng.choice(self.living())
            node.close(0)
            self.cluster.frozen.discard(node)
            self.add(node.node_id)

    def check_living(self) -> None:
        for node in self.living():
            check_log(self.logs[node], [10, 20], dialled=self.dialled[node], closed=False)
            stats = node.stats()
            assert stats.half_open == 0
            assert stats.dials == len(self.dialled[node])
            assert stats.links_opened == stats.links_closed + len(stats.links)
            for conn_id in self.dialled[node]:
                assert len(self.logs[node].of("connected", "error", conn=conn_id)) == 2

    def check_all(self) -> None:
        for node, log in self.logs.items():
            if log.entries:
                check_log(log, [10, 20], dialled=self.dialled[node])
            else:
                assert not self.dialled[node]


class Traffic:
    """Random messages and calls over random links that come and go politely."""

    def __init__(self, cluster: Cluster, rng: random.Random, *, mixed: bool, **config: Any) -> None:
        self.cluster, self.rng = cluster, rng
        self.quiet = False
        self.undone = 0
        self.logs: dict[Node, Log] = {}
        other: dict[BackendName, BackendName] = {"pure": "fast", "fast": "pure"}
        for number in rng.sample(range(1, 200), rng.randrange(3, 8)):
            handlers = rng.choice(["all", "quiet", None])
            log = Log()
            services = [Spy(10, log, rpc=self.answer, message=self.react, event=self.react)]
            if rng.random() < 0.5:
                services.append(Spy(20, log, handlers=handlers))
            node = cluster.add(
                number,
                *services,
                backend=other[cluster.backend] if mixed and rng.random() < 0.5 else None,
                write_high_bytes=rng.choice([4_096, 30_000, 1 << 20]),
                write_low_bytes=1_000,
                local_queue_bytes=rng.choice([4_096, 1 << 20]),
                max_frame_bytes=rng.choice([4_096, 1 << 20]),
                max_answers_open=rng.choice([1, 1_000]),
                close_timeout_ms=60_000,
                ping_interval_ms=1_000,
                tick_ms=10_000,
                **config,
            )
            self.logs[node] = log

    @property
    def deepest(self) -> int:
        """How many hooks of one node ran inside each other."""
        return max(log.deepest for log in self.logs.values())

    def is_over(self) -> bool:
        links = [link for node in self.cluster.nodes for link in node.connections]
        return not self.undone and not any(link.queued_bytes or link.closing for link in links)

    def react(self, agent: Any, message: Any) -> None:
        if not self.quiet and self.rng.random() < 0.2:
            try_send(agent.reply, message, b"reply")

    def answer(self, agent: Any, req: Any, res: Any) -> bool:
        chance = self.rng.random()
        if chance < 0.5:
            try_send(res.ok, req.payload)
        elif chance < 0.7:
            agent.call_later(self.rng.randrange(200), lambda: try_send(res.ok))
        return chance < 0.9

    def done(self, node: Node) -> Callable[..., Any]:
        """Return the end of one call, which must come once."""
        ends: list[object] = []

        def on_done(answer: object) -> None:
            ends.append(answer)
            assert len(ends) == 1
            self.undone -= 1

        return self.logs[node].wrap("done", on_done)

    def step(self) -> None:
        action = self.rng.choice([self.send] * 8 + [self.dial] * 3 + [self.close])
        action()
        if self.rng.random() < 0.5:
            self.cluster.advance(self.rng.choice([0, 1, 10, 100, 500]))

    def dial(self) -> None:
        one, other = self.rng.sample(self.cluster.nodes, 2)
        self.cluster.dial(one, other, parallel=self.rng.random() < 0.2)

    def close(self) -> None:
        node = self.rng.choice(self.cluster.nodes)
        if node.connections:
            node.agent(10).close_conn(self.rng.choice(node.connections).conn_id)

    def send(self) -> None:
        for _ in range(self.rng.choice([1, 5, 50])):
            self.send_one()

    def send_one(self) -> None:
        rng = self.rng
        node = rng.choice(self.cluster.nodes)
        agent, dest = node.agent(10), rng.choice(self.cluster.nodes).node_id
        payload = bytes(rng.choice([0, 10, 500, 3_000, 20_000]))
        how = {"to_service": rng.choice([10, 10, 20, 99]), "ttl": rng.choice([1, 2, 3, 64])}
        kind = rng.randrange(6)
        if kind == 0:
            try_send(agent.send_to_node, dest, payload, **how)
        elif kind == 1:
            try_send(agent.send_to_key, rng.randrange(1 << 32), payload, **how)
        elif kind == 2:
            try_send(agent.send_to_service, 20, payload)
        elif kind == 3:
            try_send(agent.send_local, payload, **how)
        elif kind == 4 and node.connections:
            try_send(agent.send_to_conn, rng.choice(node.connections).conn_id, payload, **how)
        else:
            rule = rng.choice([RouteRule.node(dest), RouteRule.service(), RouteRule.closest(dest)])
            sent = try_send(
                agent.call, rule, rng.choice([10, 20, 99]), payload, self.done(node), 3_000
            )
            self.undone += sent


def try_send(send: Any, *args: Any, **how: Any) -> bool:
    """Send; return whether it was accepted."""
    try:
        send(*args, **how)
    except LocalError:
        return False
    return True
