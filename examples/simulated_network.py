"""Ten nodes, a cut and a death, in virtual time: how to test behaviors of your own.

Shows ``netcore.sim``: topologies, faults, ``settle``, and the hash that the same seed repeats.
"""

from __future__ import annotations

import netcore as nc
from netcore import RouteRule
from netcore.sim import Network

COUNTER = 30


class Counter(nc.NetworkBehavior):
    """Counts, and tells how far it came; forgets everything when its process dies."""

    service_id = COUNTER

    def __init__(self) -> None:
        self.count = 0

    def on_rpc(self, agent: nc.BehaviorAgent, req: nc.RpcRequest, res: nc.RpcAnswer) -> bool:
        """Count one more."""
        self.count += 1
        res.ok(b"%d" % self.count)
        return True


def story(seed: int) -> str:
    """Live through a cut and a restart, and return the hash of all that happened."""
    with Network(seed) as net:
        net.topology.ring(10, [Counter], latency_ms=5, loss=0.01)
        print(f"ten nodes are joined after {net.settle()} ms")

        def ask(node_id: int) -> str:
            return net.call(1, RouteRule.node(node_id), COUNTER, b"").decode()

        print(f"node 4 counts {ask(4)}, {ask(4)}")
        net.cut(2, 3)
        net.settle()
        print(f"the other way round it counts {ask(4)}")
        net.kill(4)
        net.run(1_000)
        net.restart(4)
        net.settle()
        print(f"its next incarnation counts {ask(4)}")
        return net.hash


if __name__ == "__main__":
    first = story(seed=7)
    print("the same seed, the same events:", story(seed=7) == first)
