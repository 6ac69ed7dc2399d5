"""Calls: a server on a thread of its own, and a client that meets every kind of answer.

Shows ``on_rpc``, answers given later, errors of the application and of netcore, ``Node.call``.
"""

from __future__ import annotations

import threading

import netcore as nc
from netcore import CallError, Node, RouteRule

ADD = 20
NOT_A_NUMBER = 400  # codes below 256 are netcore's own


class Adder(nc.NetworkBehavior):
    """Adds numbers; some requests take longer, some are not answered at all."""

    service_id = ADD

    def on_rpc(self, agent: nc.BehaviorAgent, req: nc.RpcRequest, res: nc.RpcAnswer) -> bool:
        """Answer now, later or never; False means: this is not handled here."""
        words = req.payload.split()
        if words[0] == b"sing":
            return False
        if words[0] == b"later":
            agent.call_later(50, lambda: res.ok(b"here it is"))
        elif words[0] == b"forget":
            pass  # the answer object is let go, and the caller is told so
        elif all(word.isdigit() for word in words):
            res.ok(b"%d" % sum(map(int, words)))
        else:
            res.error(NOT_A_NUMBER, "numbers, please")
        return True


def outcome(client: Node, payload: bytes) -> str:
    """Call, and say how it went."""
    try:
        return client.call(RouteRule.node(1), ADD, payload, timeout_s=2.0).decode()
    except CallError as error:
        return f"{type(error).__name__} {error.code} {error.text}"


if __name__ == "__main__":
    server = Node(1, behaviors=[Adder()])
    addr = server.listen("/ip4/127.0.0.1/tcp/0")
    thread = threading.Thread(target=server.run)
    thread.start()
    with Node(2) as client:
        client.connect(addr)
        client.wait_connected(1)
        for payload in (b"1 2 3", b"later", b"one two", b"sing", b"forget"):
            print(f"{payload.decode()} -> {outcome(client, payload)}")
    server.stop()
    thread.join()
    server.close()
