"""A node inside asyncio: no thread, no second loop, calls that can be awaited.

Shows ``fileno``, ``next_deadline_ms`` and ``poll(0)``, all that another loop needs to host a node.
"""

from __future__ import annotations

import asyncio

import netcore as nc


class Shout(nc.NetworkBehavior):
    """Answers calls in capitals."""

    service_id = 60

    def on_rpc(self, agent: nc.BehaviorAgent, req: nc.RpcRequest, res: nc.RpcAnswer) -> bool:
        """Answer at once."""
        res.ok(req.payload.upper())
        return True


class Hosted:
    """Turns a node whenever its descriptor is readable or its next timer is due."""

    def __init__(self, node: nc.Node) -> None:
        self.node = node
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(node.fileno(), self.turn)
        self.timer: asyncio.Handle = self.loop.call_soon(self.turn)

    def turn(self) -> None:
        """Do what there is to do, and come back in time."""
        self.timer.cancel()
        self.node.poll(0)
        wait_ms = self.node.next_deadline_ms()
        if wait_ms is not None:
            self.timer = self.loop.call_later(wait_ms / 1000, self.turn)

    async def call(self, node_id: int, service_id: int, payload: bytes) -> bytes:
        """Call a service and await its answer; raises ``CallError`` like ``Node.call``."""
        done: asyncio.Future[nc.CallAnswer] = self.loop.create_future()
        rule = nc.RouteRule.node(node_id)
        self.node.agent(service_id).call(rule, service_id, payload, done.set_result)
        return (await done).result()


async def main() -> None:
    """Host two nodes in one asyncio loop and let one call the other, two calls at once."""
    with nc.Node(1, behaviors=[Shout()]) as one, nc.Node(2, behaviors=[Shout()]) as two:
        _, client = Hosted(one), Hosted(two)
        two.connect(one.listen("/ip4/127.0.0.1/tcp/0"))
        while two.router.path_to_node(1).is_reject:
            await asyncio.sleep(0.01)
        print(await asyncio.gather(*(client.call(1, 60, word) for word in (b"one", b"two"))))


if __name__ == "__main__":
    asyncio.run(main())
