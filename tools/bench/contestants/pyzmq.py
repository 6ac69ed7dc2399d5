"""pyzmq: PUSH/PULL streams, DEALER/ROUTER calls, ``zmq.proxy`` as the relay, XPUB for fan-out.

A blocking ``recv`` is pyzmq's fastest way to a message. Queues hold some MiB either way (the
default of 1,000 messages is little for small ones and GiBs of large ones). Nothing is dropped:
PUSH and DEALER block when their queue is full, and so does XPUB with XPUB_NODROP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os import getpid
from threading import Thread
from typing import Any

from tools.bench.framing import Caller
from tools.bench.process import (
    CallLoad,
    IdleMemory,
    Options,
    Phase,
    RoundTrips,
    cpu_seconds,
    importing,
    main,
    ready,
    report_opaque_relay,
    wait_for_go,
)

NAME = "pyzmq"
REQUIRES = ("zmq",)

ANY = "tcp://127.0.0.1:*"
QUEUED = 16 * 1024 * 1024
COPIED = 16_384  # below this a copy costs less than what shares the payload


def open_socket(kind: str, size: int = 64, links: int = 1) -> Any:
    """Return a socket whose queues suit messages of this size; its messages are never dropped."""
    import zmq

    context = zmq.Context.instance()
    if links > 500:
        context.set(zmq.MAX_SOCKETS, links + 100)
    socket = context.socket(getattr(zmq, kind))
    socket.set_hwm(max(8, min(100_000, QUEUED // (size + 64))))
    socket.linger = -1
    return socket


def bind(socket: Any) -> str:
    """Listen; return the address, and this process's pid for relays that wait for its end."""
    socket.bind(ANY)
    return f"{socket.last_endpoint.decode()} {getpid()}"


def connect(socket: Any, options: Options) -> None:
    """Connect to what `bind` returned elsewhere."""
    socket.connect(options.addr.split()[0])


def close(socket: Any) -> None:
    """Close, once all is sent."""
    import zmq

    socket.close()
    zmq.Context.instance().term()


def sink(options: Options) -> None:
    """Receive a stream."""
    socket = open_socket("PULL", options.size)
    phase = Phase(options)
    ready(bind(socket))
    receive_all(socket, phase)


def receive_all(socket: Any, phase: Phase) -> None:
    """Receive until the phase is done."""
    receive, on_message = socket.recv, phase.on_message
    while not phase.done:
        on_message(receive())
    phase.report()


def source(options: Options) -> None:
    """Send a stream; large messages are not copied."""
    socket = open_socket("PUSH", options.size)
    connect(socket, options)
    payload = options.payload
    copy = options.size < COPIED
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    send = socket.send
    for _ in range(options.warmup):
        send(payload, copy=copy)
    phase.start()
    for _ in range(options.messages):
        send(payload, copy=copy)
    close(socket)
    phase.stop()
    phase.report()


def relay(options: Options) -> None:
    """Run libzmq's own proxy until the sink has ended."""
    import zmq

    front, back = open_socket("PULL", options.size), open_socket("PUSH", options.size)
    connect(back, options)
    addr = bind(front)
    Thread(target=zmq.proxy, args=(front, back), daemon=True).start()
    ready(addr)
    report_opaque_relay(options, cpu_seconds, int(options.addr.split()[1]))


def echo(options: Options) -> None:
    """Send every message back."""
    socket = open_socket("PAIR", options.size)
    phase = Phase(options)
    ready(bind(socket))
    copy = options.size < COPIED
    while not phase.done:
        message = socket.recv()
        socket.send(message, copy=copy)
        phase.on_message(message)
    close(socket)
    phase.report()


def ping_pong(socket: Any, payload: bytes, trips: RoundTrips) -> None:
    """Keep one message in flight until trips has enough."""
    send, receive = socket.send, socket.recv
    copy = len(payload) < COPIED
    trips.begin()
    send(payload, copy=copy)
    while trips.again(receive()):
        send(payload, copy=copy)


def pinger(options: Options) -> None:
    """Keep one message in flight."""
    socket = open_socket("PAIR", options.size)
    connect(socket, options)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    ping_pong(socket, options.payload, trips)
    phase.report(**trips.fields())


def callee(options: Options) -> None:
    """Answer calls of any number of clients."""
    socket = open_socket("ROUTER", options.size)
    phase = Phase(options)
    ready(bind(socket))
    receive, send = socket.recv_multipart, socket.send_multipart
    while not phase.done:
        parts = receive()
        send(parts)
        phase.on_message(parts[1])
    close(socket)
    phase.report()


def caller(options: Options) -> None:
    """Keep a window of calls in flight, each with a number before its payload."""
    socket = open_socket("DEALER", options.size)
    connect(socket, options)
    ready()
    wait_for_go()
    phase = Phase(options)
    client = Caller(socket.send)
    load = CallLoad(options, phase, client.call)
    load.begin()
    while not phase.done:
        client.on_reply(socket.recv())
    phase.report(**load.fields())


def fan_sink(options: Options) -> None:
    """Receive from many links: one SUB socket listening at as many ports."""
    socket = open_socket("SUB", options.size)
    socket.subscribe(b"")
    phase = Phase(options)
    ready(",".join(bind(socket).split()[0] for _ in range(options.links)))
    receive_all(socket, phase)


def fan_source(options: Options) -> None:
    """Send every message to all links: one XPUB socket that waits for the slowest."""
    import zmq

    socket = open_socket("XPUB", options.size)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    for addr in options.addr.split(","):
        socket.connect(addr)
    for _ in range(options.links):
        socket.recv()  # the link's subscription
    payload = options.payload
    copy = options.size < COPIED
    warmup, rounds = options.fan_rounds()
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    for _ in range(warmup):
        socket.send(payload, copy=copy)
    phase.start()
    for _ in range(rounds):
        socket.send(payload, copy=copy)
    close(socket)
    phase.stop()
    phase.report()


def greet(options: Options) -> Callable[[], Any]:
    """Return what opens a link of its own and gets one message echoed on it."""

    def opened() -> Any:
        socket = open_socket("DEALER", options.size, options.links)
        connect(socket, options)
        socket.send(b"x")
        return socket

    return opened


def idle_server(options: Options) -> None:
    """Hold many links on one ROUTER and echo on any; a link's first message counts it."""
    socket = open_socket("ROUTER", options.size)
    socket.backlog = 4096
    phase = Phase(options, watch=False)
    memory = IdleMemory(options)
    ready(bind(socket))
    while True:
        client, message = socket.recv_multipart()
        if not message:
            break
        if len(message) == 1:
            memory.opened()
        socket.send_multipart([client, message])
    phase.report(**memory.fields())


def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    opened = greet(options)
    busy = opened()
    busy.recv()
    alone = RoundTrips(None, options.warmup, options.total)
    ping_pong(busy, options.payload, alone)
    started = time.perf_counter()
    links = []
    for at in range(0, options.links - 1, 100):
        some = [opened() for _ in range(min(100, options.links - 1 - at))]
        for link in some:
            link.recv()
        links += some
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    ping_pong(busy, options.payload, trips)
    busy.send(b"")
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)
    time.sleep(0.2)  # the I/O thread sends the end


def churn_server(options: Options) -> None:
    """Echo on any link."""
    socket = open_socket("ROUTER", options.size)
    phase = Phase(options)
    ready(bind(socket))
    while not phase.done:
        parts = socket.recv_multipart()
        socket.send_multipart(parts)
        phase.on_message(parts[1])
    close(socket)
    phase.report()


def churn_client(options: Options) -> None:
    """Connect, exchange one message, close, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    opened = greet(options)
    while not phase.done:
        with opened() as socket:
            phase.on_message(socket.recv())
    phase.report()


ROLES = {
    "sink": sink,
    "source": source,
    "relay": relay,
    "echo": echo,
    "pinger": pinger,
    "callee": callee,
    "caller": caller,
    "fan_sink": fan_sink,
    "fan_source": fan_source,
    "idle_server": idle_server,
    "idle_client": idle_client,
    "churn_server": churn_server,
    "churn_client": churn_client,
    "importing": importing("import zmq"),
}

if __name__ == "__main__":
    main(ROLES)
