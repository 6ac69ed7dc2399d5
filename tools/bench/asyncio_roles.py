"""The roles of the four contestants that use asyncio protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tools.bench.asyncio_protocol import Batched, Link, Naive, Relay
from tools.bench.framing import Caller
from tools.bench.process import (
    CallLoad,
    IdleMemory,
    Options,
    Phase,
    Role,
    RoundTrips,
    importing,
    latency_fields,
    ready,
    wait_for_go,
)

Style = type[Naive] | type[Batched]
Run = Callable[[Coroutine[Any, Any, None]], None]


def roles(style: Style, run: Run, package: str) -> dict[str, Role]:
    """Return the roles in one style on one loop."""

    def role(function: Callable[[Options, Style], Coroutine[Any, Any, None]]) -> Role:
        return lambda options: run(function(options, style))

    return {
        "sink": role(sink),
        "source": role(source),
        "relay": role(relay_batched if style is Batched else relay_naive),
        "echo": role(echo),
        "pinger": role(pinger),
        "callee": role(echo),
        "caller": role(caller_batched if style is Batched else caller_naive),
        "fan_sink": role(sink),
        "fan_source": role(fan_source),
        "idle_server": role(idle_server),
        "idle_client": role(idle_client),
        "churn_server": role(churn_server),
        "churn_client": role(churn_client),
        "importing": importing(f"import {package}"),
    }


async def listen(factory: Callable[[], asyncio.BaseProtocol]) -> str:
    """Listen and return the address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()
    return f"{host}:{port}"


async def connect(addr: str, link: Link) -> None:
    """Connect a link."""
    host, port = addr.rsplit(":", 1)
    await asyncio.get_running_loop().create_connection(lambda: link, host, int(port))


async def close(link: Link) -> None:
    """Close a link once all is sent."""
    if isinstance(link, Batched):
        link.flush()
    link.transport.close()
    await link.closed


def finishing() -> tuple[asyncio.Event, Callable[[], None]]:
    """Return an event and what sets it."""
    done = asyncio.Event()
    return done, done.set


async def sink(options: Options, style: Style) -> None:
    """Receive a stream, or those of many links."""
    done, finish = finishing()
    phase = Phase(options, finish)
    ready(await listen(lambda: style(phase.on_message)))
    await done.wait()
    phase.report()


async def send(link: Link, payload: bytes, times: int) -> None:
    """Send as fast as the transport takes it."""
    for _ in range(times):
        link.send(payload)
        if link.blocked is not None:
            await link.blocked


async def source(options: Options, style: Style) -> None:
    """Send a stream."""
    link = style()
    await connect(options.addr, link)
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    await send(link, options.payload, options.warmup)
    phase.start()
    await send(link, options.payload, options.messages)
    await close(link)
    phase.stop()
    phase.report()


async def relay_naive(options: Options, style: Style) -> None:
    """Parse every message and send it on; hold the reader back while the writer is."""
    done, finish = finishing()
    phase = Phase(options, finish)
    onward = style()
    await connect(options.addr, onward)

    def on_message(payload: bytes) -> None:
        onward.send(payload)
        phase.on_message(payload)

    link = style(on_message)
    onward.pause_writing = lambda: link.transport.pause_reading()  # type: ignore[method-assign]
    onward.resume_writing = lambda: link.transport.resume_reading()  # type: ignore[method-assign]
    ready(await listen(lambda: link))
    await done.wait()
    await close(onward)
    phase.report()


async def relay_batched(options: Options, style: Style) -> None:
    """Walk the prefixes and pass on what one read brought."""
    phase = Phase(options)
    onward = style()
    await connect(options.addr, onward)
    link = Relay(onward, phase.count)
    ready(await listen(lambda: link))
    await link.closed
    await close(onward)
    phase.report()


async def echo(options: Options, style: Style) -> None:
    """Send every message back."""
    done, finish = finishing()
    phase = Phase(options, finish)
    link = style()

    def on_message(payload: bytes) -> None:
        link.send(payload)
        phase.on_message(payload)

    link.on_message = on_message
    ready(await listen(lambda: link))
    await done.wait()
    await close(link)
    phase.report()


async def ping_pong(link: Link, payload: bytes, trips: RoundTrips) -> None:
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


async def pinger(options: Options, style: Style) -> None:
    """Keep one message in flight."""
    link = style()
    await connect(options.addr, link)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(link, options.payload, trips)
    phase.report(**trips.fields())


async def caller_batched(options: Options, style: Style) -> None:
    """Keep a window of calls in flight, with callbacks."""
    link = style()
    await connect(options.addr, link)
    ready()
    wait_for_go()
    done, finish = finishing()
    phase = Phase(options, finish)
    client = Caller(link.send)
    link.on_message = client.on_reply
    load = CallLoad(options, phase, client.call)
    load.begin()
    await done.wait()
    phase.report(**load.fields())


async def caller_naive(options: Options, style: Style) -> None:
    """Keep a window of calls in flight: a task each, that awaits a future."""
    link = style()
    await connect(options.addr, link)
    ready()
    wait_for_go()
    phase = Phase(options)
    client = Caller(link.send)
    link.on_message = client.on_reply
    loop = asyncio.get_running_loop()
    latencies: list[int] = []
    left = options.total

    async def call(payload: bytes) -> bytes:
        reply: asyncio.Future[bytes] = loop.create_future()
        client.call(payload, reply.set_result)
        return await reply

    async def worker() -> None:
        nonlocal left
        while left:
            left -= 1
            sent = time.perf_counter_ns()
            reply = await call(options.payload)
            latencies.append(time.perf_counter_ns() - sent)
            phase.on_message(reply)

    await asyncio.gather(*(worker() for _ in range(options.window)))
    phase.report(**latency_fields(latencies[options.warmup :]))


async def fan_source(options: Options, style: Style) -> None:
    """Send every message to all links."""
    links = [style() for _ in range(options.links)]
    for link in links:
        await connect(options.addr, link)
    payload = options.payload
    warmup, rounds = options.fan_rounds()
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)

    async def send(times: int) -> None:
        for _ in range(times):
            for link in links:
                link.send(payload)
                if link.blocked is not None:
                    await link.blocked

    await send(warmup)
    phase.start()
    await send(rounds)
    await asyncio.gather(*(close(link) for link in links))
    phase.stop()
    phase.report()


async def idle_server(options: Options, style: Style) -> None:
    """Hold many links and echo on any, until the first one ends."""
    phase = Phase(options, watch=False)
    memory = IdleMemory(options)
    first: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    def opened() -> Link:
        link = style()
        link.on_message = link.send
        link.on_opened = memory.opened
        if not first.done():
            first.set_result(link)
        return link

    ready(await listen(opened))
    await (await first).closed
    phase.report(**memory.fields())


async def idle_client(options: Options, style: Style) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    busy = style()
    await connect(options.addr, busy)
    alone = RoundTrips(None, options.warmup, options.total)
    await ping_pong(busy, options.payload, alone)
    started = time.perf_counter()
    links = [style() for _ in range(options.links - 1)]
    for at in range(0, len(links), 100):
        await asyncio.gather(*(connect(options.addr, link) for link in links[at : at + 100]))
    # The reply on the last link says that all are accepted.
    await ping_pong(links[-1], options.payload, RoundTrips(None, 0, 1))
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(busy, options.payload, trips)
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)


async def churn_server(options: Options, style: Style) -> None:
    """Answer one message a connection."""
    done, finish = finishing()
    phase = Phase(options, finish)

    def opened() -> Link:
        link = style()
        link.on_message = link.send
        link.closed.add_done_callback(phase.on_message)
        return link

    ready(await listen(opened))
    await done.wait()
    phase.report()


async def churn_client(options: Options, style: Style) -> None:
    """Connect, exchange one message, close, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    while not phase.done:
        link = style()
        await connect(options.addr, link)
        await ping_pong(link, b"x", RoundTrips(None, 0, 1))
        await close(link)
        phase.on_message(b"")
    phase.report()
