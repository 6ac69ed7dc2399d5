"""A node inside asyncio, by ``fileno``, ``next_deadline_ms`` and ``poll(0)``; awaitable calls."""

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

    async def call(self, node_id: int, payload: bytes) -> bytes:
        """Call a node and await its answer; raises ``CallError`` like ``Node.call``."""
        done: asyncio.Future[nc.CallAnswer] = self.loop.create_future()
        self.node.agent(60).call(nc.RouteRule.node(node_id), 60, payload, done.set_result)
        return (await done).result()


async def main() -> None:
    """Host two nodes in one asyncio loop and let one call the other, two calls at once."""
    one, two = (Hosted(nc.Node(number, behaviors=[Shout()])) for number in (1, 2))
    two.node.connect(one.node.listen("/ip4/127.0.0.1/tcp/0"))
    while two.node.router.path_to_node(1).is_reject:
        await asyncio.sleep(0.01)
    print(await asyncio.gather(two.call(1, b"one"), two.call(1, b"two")))
    for host in (one, two):
        host.loop.remove_reader(host.node.fileno())
        host.timer.cancel()
        host.node.close(timeout_s=0)


if __name__ == "__main__":
    asyncio.run(main())
