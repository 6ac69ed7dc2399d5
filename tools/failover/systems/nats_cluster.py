"""NATS: the relays are the servers of one cluster, source and sink its clients.

Servers of a cluster are all linked with each other, whatever the layout; a client knows the
servers that are its neighbours, uses one of them, and reconnects to another. Settings are the
defaults; only the client never gives up.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.bench.contestants.nats_broker import find_server
from tools.failover.actor import (
    Arrivals,
    Pace,
    Part,
    answer_orders,
    end_with_parent,
    payload,
    say,
)

SUBJECT = "bench"


def serve(part: Part) -> None:
    """Become a nats-server, when told to."""
    say(ready=True)
    sys.stdin.readline()
    say(dial_ns=time.monotonic_ns())
    config = Path(part.extra["config"])
    config.write_text(_config(part), encoding="ascii")
    server = find_server() or "nats-server"
    os.execv(server, [server, "-c", str(config), "-l", "/dev/null"])


def _config(part: Part) -> str:
    host = "0.0.0.0" if part.extra["isolated"] else "127.0.0.1"
    (_, port), cluster_port = part.listen[0], part.extra["cluster_port"]
    routes = ", ".join(f"nats-route://127.0.0.1:{other}" for other in part.extra["cluster"])
    return f"""
listen: "{host}:{port}"
server_name: "n{part.node}"
cluster {{
  name: bench
  listen: "127.0.0.1:{cluster_port}"
  routes: [{routes}]
}}
"""


class Client:
    """The source, or the sink."""

    def __init__(self, part: Part, loop: asyncio.AbstractEventLoop) -> None:
        self.part = part
        self.arrivals = Arrivals()
        self.pace = Pace(part.rate)
        self._loop = loop
        self._client: Any = None
        self._sending: asyncio.Task[None] | None = None
        self._servers = {f"{host}:{port}": peer for peer, host, port in part.neighbours}

    def dial(self) -> Mapping[str, object]:
        """Connect, and say to whom."""
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()
        return {"dial_ns": time.monotonic_ns()}

    def where(self) -> Mapping[str, object]:
        """Return the server in use, None between two."""
        client = self._client
        if client is None or not client.is_connected:
            return {"at": None}
        return {"at": self._servers[client.connected_url.netloc]}

    def send(self) -> Mapping[str, object]:
        """Begin to send."""
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()
        return {}

    async def _connect(self) -> None:
        import nats

        async def ignore(error: Exception) -> None:
            """Ignore what is said about servers that were ended on purpose."""

        urls = [f"nats://{addr}" for addr in self._servers]
        while self._client is None:
            try:
                self._client = await nats.connect(urls, max_reconnect_attempts=-1, error_cb=ignore)
            except (OSError, nats.errors.Error):
                await asyncio.sleep(0.05)
        if self.part.role == "sink":
            await self._client.subscribe(SUBJECT, cb=self._on_message)
            await self._client.flush()

    async def _on_message(self, message: Any) -> None:
        self.arrivals.take(message.data)

    async def _begin(self) -> None:
        self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        import nats

        while True:
            for number in self.pace.due():
                try:
                    await self._client.publish(SUBJECT, payload(number))
                except nats.errors.Error:
                    self.pace.refused += 1
            await asyncio.sleep(self.pace.wait_s())


def main() -> None:
    """Be a server or a client."""
    end_with_parent()
    part = Part.of(sys.argv[1])
    if part.role == "relay":
        serve(part)
        return
    loop = asyncio.new_event_loop()
    client = Client(part, loop)
    orders = {"dial": client.dial, "where": client.where}
    if part.role == "source":
        orders |= {"send": client.send, **client.pace.orders()}
    else:
        orders |= client.arrivals.orders()
    answer_orders(orders, aside=True)
    loop.run_forever()


if __name__ == "__main__":
    main()
