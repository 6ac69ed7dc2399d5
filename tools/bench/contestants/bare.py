"""Bare Python sockets: blocking calls, a length prefix, small messages joined by hand."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from tools.bench.framing import LARGE, SMALL, Caller, HeaderWalk, pack, split, split_view
from tools.bench.process import (
    CallLoad,
    IdleMemory,
    Options,
    Phase,
    RoundTrips,
    importing,
    main,
    ready,
    wait_for_go,
)

NAME = "bare Python sockets"
REQUIRES: tuple[str, ...] = ()

CHUNK = 262_144


def listen() -> tuple[socket.socket, str]:
    """Return a listening socket and its address as text."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    host, port = server.getsockname()
    return server, f"{host}:{port}"


def accept(server: socket.socket) -> socket.socket:
    """Return the next connection."""
    link, _ = server.accept()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def connect(addr: str) -> socket.socket:
    """Return a connection to an address in text."""
    host, port = addr.rsplit(":", 1)
    link = socket.create_connection((host, int(port)))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


class Sender:
    """Joins small messages into large sends; sends large ones as they are."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._parts: list[bytes] = []
        self._bytes = 0

    def send(self, payload: bytes) -> None:
        """Send one message, sooner or later."""
        size = len(payload)
        if size >= LARGE:
            self._send_large(payload)
            return
        self._parts.append(pack(size) + payload)
        self._bytes += size
        if self._bytes >= LARGE:
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        if self._parts:
            self._link.sendall(b"".join(self._parts))
            self._parts.clear()
            self._bytes = 0

    def _send_large(self, payload: bytes) -> None:
        self.flush()
        sent = self._link.sendmsg([pack(len(payload)), payload]) - 4
        if sent < len(payload):  # the four bytes of the prefix always fit: it is a blocking socket
            self._link.sendall(memoryview(payload)[sent:])


class Receiver:
    """Reads messages: many small ones at once, large ones each into an object of its own."""

    def __init__(self, link: socket.socket, size: int) -> None:
        self._link = link
        self._size = size
        self._view = memoryview(bytearray(CHUNK))
        self._rest = 0  # bytes of a message not yet whole, at the buffer's start

    def receive(self, on_message: Callable[[bytes], object]) -> bool:
        """Hand out what one read brings; return False at the end of the stream."""
        if self._size >= LARGE:
            return self._receive_large(on_message)
        view, rest = self._view, self._rest
        end = rest + self._link.recv_into(view[rest:])
        if end == rest:
            return False
        if self._size < SMALL:
            start = split(bytes(view[:end]), on_message)
        else:
            start = split_view(view[:end], on_message)
        self._rest = rest = end - start
        if rest:
            view[:rest] = view[start:end]
        return True

    def _receive_large(self, on_message: Callable[[bytes], object]) -> bool:
        prefix = self._link.recv(4, socket.MSG_WAITALL)
        if not prefix:
            return False
        on_message(self._link.recv(int.from_bytes(prefix, "little"), socket.MSG_WAITALL))
        return True


def sink(options: Options) -> None:
    """Receive a stream."""
    server, addr = listen()
    phase = Phase(options)
    ready(addr)
    receiver = Receiver(accept(server), options.size)
    while not phase.done and receiver.receive(phase.on_message):
        pass
    phase.report()


def source(options: Options) -> None:
    """Send a stream."""
    sender = Sender(connect(options.addr))
    payload = options.payload
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    for _ in range(options.warmup):
        sender.send(payload)
    phase.start()
    for _ in range(options.messages):
        sender.send(payload)
    sender.flush()
    phase.stop()
    phase.report()


def relay(options: Options) -> None:
    """Walk the prefixes of one stream and pass it on."""
    server, addr = listen()
    onward = connect(options.addr)
    phase = Phase(options)
    ready(addr)
    link = accept(server)
    walk, rest = HeaderWalk(), 0
    view = memoryview(bytearray(CHUNK))
    while not (phase.done and walk.between):
        end = rest + link.recv_into(view[rest:])
        if end == rest:
            break
        stop, count = walk.walk(view, end)
        onward.sendall(view[:stop])
        phase.count(count)
        rest = end - stop
        view[:rest] = view[stop:end]
    phase.report()


def echo(options: Options) -> None:
    """Send every message back."""
    server, addr = listen()
    phase = Phase(options)
    ready(addr)
    link = accept(server)
    receiver, sender = Receiver(link, options.size), Sender(link)

    def on_message(payload: bytes) -> None:
        sender.send(payload)
        sender.flush()
        phase.on_message(payload)

    while not phase.done and receiver.receive(on_message):
        pass
    phase.report()


def pinger(options: Options) -> None:
    """Keep one message in flight."""
    link = connect(options.addr)
    ready()
    wait_for_go()
    phase = Phase(options)
    trips = RoundTrips(phase, options.warmup)
    ping_pong(link, options, trips)
    phase.report(**trips.fields())


def ping_pong(link: socket.socket, options: Options, trips: RoundTrips) -> None:
    """Send a message and wait for it to come back, until trips has enough."""
    sender, receiver = Sender(link), Receiver(link, options.size)
    payload = options.payload

    def on_message(reply: bytes) -> None:
        if trips.again(reply):
            sender.send(payload)
            sender.flush()

    trips.begin()
    sender.send(payload)
    sender.flush()
    while not trips.done and receiver.receive(on_message):
        pass


def callee(options: Options) -> None:
    """Answer calls: one send for all that came together."""
    server, addr = listen()
    phase = Phase(options)
    ready(addr)
    link = accept(server)
    receiver, sender = Receiver(link, options.size), Sender(link)

    def on_call(call: bytes) -> None:
        sender.send(call)
        phase.on_message(call)

    while not phase.done and receiver.receive(on_call):
        sender.flush()
    sender.flush()
    phase.report()


def caller(options: Options) -> None:
    """Keep a window of calls in flight."""
    link = connect(options.addr)
    ready()
    wait_for_go()
    phase = Phase(options)
    receiver, sender = Receiver(link, options.size), Sender(link)
    client = Caller(sender.send)
    load = CallLoad(options, phase, client.call)
    load.begin()
    sender.flush()
    while not phase.done and receiver.receive(client.on_reply):
        sender.flush()
    phase.report(**load.fields())


def fan_sink(options: Options) -> None:
    """Receive from many links."""
    server, addr = listen()
    phase = Phase(options)
    ready(addr)
    poll = select.epoll()
    receivers: dict[int, Receiver] = {}
    links = [accept(server) for _ in range(options.links)]
    for link in links:
        receivers[link.fileno()] = Receiver(link, options.size)
        poll.register(link, select.EPOLLIN)
    while not phase.done:
        for fd, _ in poll.poll():
            if not receivers[fd].receive(phase.on_message):
                poll.unregister(fd)
    phase.report()


def fan_source(options: Options) -> None:
    """Send every message to all links."""
    senders = [Sender(connect(options.addr)) for _ in range(options.links)]
    payload = options.payload
    warmup, rounds = options.fan_rounds()
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)

    def send(times: int) -> None:
        for _ in range(times):
            for sender in senders:
                sender.send(payload)
        for sender in senders:
            sender.flush()

    send(warmup)
    phase.start()
    send(rounds)
    phase.stop()
    phase.report()


def idle_server(options: Options) -> None:
    """Hold many links and echo on any."""
    server, addr = listen()
    memory = IdleMemory(options)
    phase = Phase(options, watch=False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    links: dict[int, socket.socket] = {}
    ready(addr)
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                link = accept(server)
                links[link.fileno()] = link
                poll.register(link, select.EPOLLIN)
                memory.opened()
                continue
            data = links[fd].recv(CHUNK)
            if not data:
                phase.report(**memory.fields())
                return
            links[fd].sendall(data)


def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    ready()
    wait_for_go()
    phase = Phase(options, watch=False)
    busy = connect(options.addr)
    alone = RoundTrips(None, options.warmup, options.total)
    ping_pong(busy, options, alone)
    started = time.perf_counter()
    links = [connect(options.addr) for _ in range(options.links - 1)]
    ping_pong(links[-1], options, RoundTrips(None, 0, 1))  # its reply says that all are accepted
    seconds = time.perf_counter() - started
    trips = RoundTrips(phase, options.warmup)
    ping_pong(busy, options, trips)
    fields = {**trips.fields(), "alone": alone.fields()["latency_ns"]}
    phase.report(connect_seconds=seconds, **fields)


def churn_server(options: Options) -> None:
    """Accept, answer one byte, wait for the end, again and again."""
    server, addr = listen()
    phase = Phase(options)
    ready(addr)
    while not phase.done:
        with accept(server) as link:
            link.sendall(link.recv(1))
            link.recv(1)
        phase.on_message(b"")
    phase.report()


def churn_client(options: Options) -> None:
    """Connect, exchange one byte, close, again and again."""
    ready()
    wait_for_go()
    phase = Phase(options)
    while not phase.done:
        with connect(options.addr) as link:
            link.sendall(b"x")
            link.recv(1)
        phase.on_message(b"")
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
    "importing": importing(""),
}

if __name__ == "__main__":
    main(ROLES)
