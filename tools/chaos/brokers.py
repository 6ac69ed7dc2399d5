"""Brokers with a subscriber that reads nothing: NATS, Redis and Mosquitto, spoken to by hand.

Facts first:

- Each of them keeps what a subscriber has not read, and gives the subscriber up at a limit of its
  own: NATS at 64 MiB, Redis at 32 MiB, Mosquitto drops beyond 1,000 queued messages. These defaults
  stay as they are.
- The measured process is the broker: that is where messages for a slow reader wait.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from .growth import Growth

PATIENCE_S: Final = 10.0


class Broker(NamedTuple):
    """How to start one, and what its clients say."""

    name: str
    program: str
    arguments: Callable[[int, str], list[str]]
    version: tuple[str, ...]
    subscribe: bytes
    hello: bytes  # of the publisher
    message: Callable[[bytes], bytes]


def _nats(payload: bytes) -> bytes:
    return b"PUB x %d\r\n%s\r\n" % (len(payload), payload)


def _redis(payload: bytes) -> bytes:
    return b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nx\r\n$%d\r\n%s\r\n" % (len(payload), payload)


def _mqtt(payload: bytes) -> bytes:
    body = b"\x00\x01x" + payload
    length, digits = len(body), bytearray()
    while True:  # seven bits a byte
        length, digit = divmod(length, 128)
        digits.append(digit | (128 if length else 0))
        if not length:
            return b"\x30" + bytes(digits) + body


def _mqtt_connect(client: bytes) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(client).to_bytes(2, "big") + client
    return b"\x10" + bytes([len(body)]) + body


BROKERS: Final = (
    Broker(
        "NATS",
        "nats-server",
        lambda port, _: ["-a", "127.0.0.1", "-p", str(port)],
        ("-v",),
        b'CONNECT {"verbose":false}\r\nSUB x 1\r\nPING\r\n',
        b'CONNECT {"verbose":false}\r\nPING\r\n',
        _nats,
    ),
    Broker(
        "Redis",
        "redis-server",
        lambda port, home: [
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--dir",
            home,
        ],
        ("--version",),
        b"SUBSCRIBE x\r\n",
        b"PING\r\n",
        _redis,
    ),
    Broker(
        "Mosquitto",
        "mosquitto",
        lambda port, _: ["-p", str(port)],
        ("-h",),
        _mqtt_connect(b"deaf") + b"\x82\x06\x00\x01\x00\x01x\x00",
        _mqtt_connect(b"talk"),
        _mqtt,
    ),
)


def find(broker: Broker) -> str | None:
    """Return the path of its program: beside this interpreter, in PATH, or in /usr/sbin."""
    beside = Path(sys.executable).with_name(broker.program)
    return str(beside) if beside.exists() else shutil.which(broker.program)


def version(broker: Broker, program: str) -> str:
    """Return the number in the first line it says about itself."""
    done = subprocess.run([program, *broker.version], capture_output=True, text=True, check=False)
    words = (done.stdout + done.stderr).split()
    numbers = [w for w in words if w.lstrip("v=").replace(".", "").isdigit() and "." in w]
    return numbers[0].lstrip("v=") if numbers else "?"


def measure(broker: Broker, program: str, total: int, size: int) -> int:
    """Offer ``total`` bytes to a subscriber that never reads; return how far the broker grew."""
    with tempfile.TemporaryDirectory(prefix="netcore-chaos-") as home:
        port = _free_port()
        process = subprocess.Popen(
            [program, *broker.arguments(port, home)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return _offer(broker, process.pid, port, total, size)
        finally:
            process.kill()
            process.wait()


def _offer(broker: Broker, pid: int, port: int, total: int, size: int) -> int:
    with _connect(port) as deaf, _connect(port) as talk:
        deaf.sendall(broker.subscribe)
        deaf.recv(1, socket.MSG_PEEK)  # it has answered something
        talk.sendall(broker.hello)
        talk.settimeout(0.5)
        talk.recv(1 << 16)
        time.sleep(0.5)
        growth = Growth(pid)
        message = broker.message(bytes(size))
        batch = message * max(1, (1 << 16) // len(message))
        left = total // size
        while left > 0:
            left -= len(batch) // len(message)
            _push(talk, batch)
            growth.look()
        return growth.settle()


def _push(talk: socket.socket, batch: bytes) -> None:
    """Send a batch whole; read what comes back, so that nobody waits for that."""
    talk.settimeout(PATIENCE_S)
    talk.sendall(batch)
    talk.setblocking(False)
    try:
        talk.recv(1 << 20)
    except BlockingIOError:
        return


def _connect(port: int) -> socket.socket:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        time.sleep(0.05)
    raise RuntimeError("the broker does not answer")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
