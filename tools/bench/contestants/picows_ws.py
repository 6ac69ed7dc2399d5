"""picows: websocket frames, on uvloop where it is installed.

A server sends what it is given; a client has to mask every frame, which is the protocol's price.
Each ``send`` is a write of its own: picows joins nothing, uvloop gathers within a tick.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tools.bench.framing import Caller
from tools.bench.process import (
    CallLoad,
    IdleMemory,
    Options,
    Phase,
    Role,
    RoundTrips,
    importing,
    main,
    ready,
    wait_for_go,
)

NAME = "picows"
REQUIRES = ("picows",)

BUFFER = 262_144
SMALL_BUFFER = 1_024  # for many links of which most say nothing; it grows as needed


def nothing(*_: object) -> None:
    """Ignore an event."""


class Flow:
    """What of a link needs no picows: its end and its flow control."""

    def __init__(self, on_message: Callable[[bytes], object]) -> None:
        self.on_message = on_message
        self.on_opened: Callable[[], object] = nothing
        self.transport: Any = None
        self.blocked: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self.on_opened()

    def on_ws_disconnected(self, transport: Any) -> None:
        """End."""
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Hold the sender back."""
        self.blocked = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let the sender go on."""
        if self.blocked is not None:
            self.blocked.set_result(None)
            self.blocked = None


@functools.cache
def link_class() -> Any:
    """Return the class of links, made once picows is wanted."""
    import picows

    binary, close = picows.WSMsgType.BINARY, picows.WSMsgType.CLOSE

    class Link(Flow, picows.WSListener):
        """A link of either side."""

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            """Hand out a message."""
            if frame.msg_type is binary:
                self.on_message(frame.get_payload_as_bytes())
            elif frame.msg_type is close:
                transport.disconnect()

        def send(self, payload: bytes) -> None:
            """Send one message."""
            self.transport.send(binary, payload)

    return Link


def new_link(on_message: Callable[[bytes], object] = nothing) -> Any:
    """Return a link not yet connected."""
    return link_class()(on_message)


def run(function: Callable[[Options], Coroutine[Any, Any, None]]) -> Role:
    """Return a role that runs on uvloop where there is one."""

    def role(options: Options) -> None:
        try:
            import uvloop
        except ImportError:
            asyncio.run(function(options))
        else:
            uvloop.run(function(options))

    return role


async def listen(opened: Callable[[], Any], buffer: int = BUFFER) -> str:
    """Listen and return the address; opened makes a link for each connection."""
    import picows

    server = await picows.ws_create_server(
        lambda request: opened(), "127.0.0.1", 0, read_buffer_init_size=buffer, backlog=4096
    )
    host, port = server.sockets[0].getsockname()
    return f"ws://{host}:{port}/"


async def connect(options: Options, link: Any, buffer: int = BUFFER) -> None:
    """Connect a link."""
    import picows

    await picows.ws_connect(lambda: link, options.addr, read_buffer_init_size=buffer)


async def close(link: Any) -> None:
    """Close a link once all is sent."""
    link.transport.disconnect()
    await link.closed


async def sink(options: Options) -> None:
    """Receive a stream, or those of many links."""
    done = asyncio.Event()
    phase = Phase(options, done.set)
    ready(await listen(lambda: new_link(phase.on_message)))
    await done.wait()
    phase.report()


async def send(links: list[Any], payload: bytes, times: int) -> None:
    """Send to all links as fast as their transports take it."""
    for _ in range(times):
        for link in links:
            link.send(payload)
            if link.blocked is not None:
                await link.blocked


async def stream(options: Options, links: list[Any], warmup: int, messages: int) -> None:
    """Connect the links, send all, and report."""
    for link in links:
        await connect(options, link)
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    await send(links, options.payload, warmup)
    phase.start()
    await send(links, options.payload, messages)
    await asyncio.gather(*(close(link) for link in links))
    phase.stop()
    phase.report()


async def source(options: Options) -> None:
    """Send a stream."""
    await stream(options, [new_link()], options.warmup, options.messages)


async def fan_source(options: Options) -> None:
    """Send every message to all links."""
    await stream(options, [new_link() for _ in range(options.links)], *options.fan_rounds())


async def relay(options: Options) -> None:
    """Send every message on; hold the reader back while the writer is."""
    done = asyncio.Event()
    phase = Phase(options, done.set)
    onward = new_link()
    await connect(options, onward)

    def on_message(payload: bytes) -> None:
        onward.send(payload)
        phase.on_message(payload)

    link = new_link(on_message)
    onward.pause_writing = lambda: link.transport.underlying_transport.pause_reading()
    onward.resume_writing = lambda: link.transport.underlying_transport.resume_reading()
    ready(await listen(lambda: link))
    await done.wait()
    await close(onward)
    phase.report()


async def echo(options: Options) -> None:
    """Send every message back."""
    done = asyncio.Event()
    phase = Phase(options, done.set)

    def on_message(payload: bytes) -> None:
        link.send(payload)
        phase.on_message(payload)

    link = new_link(on_message)
    ready(await listen(lambda: link))
    await done.wait()
    await close(link)
    phase.report()


async def ping_pong(link: Any, payload: bytes, trips: RoundTrips) -> None:
    """Keep one message in flight until trips has enough."""
    done = asyncio.Event()

    def on_message(reply: bytes) -> None:
        if trips.again(reply):
            link.send(payload)
        else:
            done.set()

    link.on_message = on_message
    trips.begin()
    link.send(payload)
    await done.wait()


async def pinger(options: Options) -> None:
    """Keep one message in flight."""
    link = new_link()
    await connect(options, link)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(link, options.payload, trips)
    phase.report(**trips.fields())


async def caller(options: Options) -> None:
    """Keep a window of calls in flight, each with a number before its payload."""
    link = new_link()
    await connect(options, link)
    ready()
    wait_for_go()
    done = asyncio.Event()
    phase = Phase(options, done.set)
    client = Caller(link.send)
    link.on_message = client.on_reply
    load = CallLoad(options, phase, client.call)
    load.begin()
    await done.wait()
    phase.report(**load.fields())


async def idle_server(options: Options) -> None:
    """Hold many links and echo on any, until the first one ends."""
    phase = Phase(options, watch=False)
    memory = IdleMemory(options)
    first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def opened() -> Any:
        link = new_link()
        link.on_message = link.send
        link.on_opened = memory.opened
        if not first.done():
            first.set_result(link)
        return link

    ready(await listen(opened, SMALL_BUFFER))
    await (await first).closed
    phase.report(**memory.fields())


async def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    busy = new_link()
    await connect(options, busy, SMALL_BUFFER)
    alone = RoundTrips(None, options.warmup, options.total)
    await ping_pong(busy, options.payload, alone)
    started = time.perf_counter()
    links = [new_link() for _ in range(options.links - 1)]
    for at in range(0, len(links), 100):
        await asyncio.gather(
            *(connect(options, link, SMALL_BUFFER) for link in links[at : at + 100])
        )
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(busy, options.payload, trips)
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)


async def churn_server(options: Options) -> None:
    """Echo on any link; count those that have ended."""
    done = asyncio.Event()
    phase = Phase(options, done.set)

    def opened() -> Any:
        link = new_link()
        link.on_message = link.send
        link.closed.add_done_callback(phase.on_message)
        return link

    ready(await listen(opened, SMALL_BUFFER))
    await done.wait()
    phase.report()


async def churn_client(options: Options) -> None:
    """Connect, exchange one message, close, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    while not phase.done:
        link = new_link()
        await connect(options, link, SMALL_BUFFER)
        await ping_pong(link, b"x", RoundTrips(None, 0, 1))
        await close(link)
        phase.on_message(b"")
    phase.report()


ROLES = {
    "sink": run(sink),
    "source": run(source),
    "relay": run(relay),
    "echo": run(echo),
    "pinger": run(pinger),
    "callee": run(echo),
    "caller": run(caller),
    "fan_sink": run(sink),
    "fan_source": run(fan_source),
    "idle_server": run(idle_server),
    "idle_client": run(idle_client),
    "churn_server": run(churn_server),
    "churn_client": run(churn_client),
    "importing": importing("import picows"),
}

if __name__ == "__main__":
    main(ROLES)
