"""Strangers: connections that never become links, from a process of their own.

``python -m tools.chaos.strangers OPTIONS``, a JSON object. "silent" of them say nothing, "drip" of
them say a byte of a HELLO every half second, and all come within "arrive_s"; or "wrong_per_s" of
them each second for "seconds" try a wrong secret. It says "ready" when all are connected, and what
became of them, as JSON, when all were closed or "patience_s" are over.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from netcore import _backend, wire
from netcore.handshake import Identity, Initiator
from netcore.keys import KeyRing

from .victim import REPO

__all__ = ["HELLO", "Strangers", "strangers"]

DRIP_S: Final = 0.5
#: The HELLO of node 66 without a secret.
HELLO: Final = (
    b"\x08\x00\x00\x45NETC\x01\x01\x01\x00\x00" + (66).to_bytes(4, "big") + b"\xff" * 4
    + b"\x5a" * 8 + b"\x00\x00\x00\x01" + b"\x00\x10\x00\x00" + b"\x5a" * 32 + bytes(4)
)  # fmt: skip


# -- the parent's side ---------------------------------------------------------------------------


class Strangers:
    """The process, seen from outside."""

    def __init__(self, host: str, port: int, **options: object) -> None:
        command = [sys.executable, "-m", f"{__package__}.strangers"]
        self._process = subprocess.Popen(
            [*command, json.dumps({"host": host, "port": port, **options})],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )

    @property
    def is_over(self) -> bool:
        """Whether all are gone."""
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        """Wait until all are connected."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != b"ready\n":
            raise RuntimeError("the strangers could not connect")

    def result(self) -> dict[str, Any]:
        """Return what became of them."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.read())
        self._process.wait()
        return answer

    def close(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def strangers(host: str, port: int, **options: object) -> Iterator[Strangers]:
    """End the process in the end."""
    crowd = Strangers(host, port, **options)
    try:
        yield crowd
    finally:
        crowd.close()


# -- the process's side --------------------------------------------------------------------------


class Guest:
    """One connection."""

    def __init__(self, sock: socket.socket, since: float, drip: int) -> None:
        self.sock = sock
        self.since = since
        self.drip = drip  # bytes said so far; -1: says nothing


class Next(NamedTuple):
    """When a guest says its next byte."""

    when: float
    number: int
    guest: Guest


class Crowd:
    """All connections of the process."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.address = options["host"], options["port"]
        self.guests: set[Guest] = set()
        self.selector = selectors.DefaultSelector()
        self.slowest_s = 0.0
        self._due: list[Next] = []

    def open(self, silent: int, drip: int, arrive_s: float) -> None:
        """Connect them all, a silent one and a slow one in turn."""
        begin, count = time.monotonic(), silent + drip
        for number in range(count):
            while time.monotonic() - begin < arrive_s * number / count:
                self.turn(0.001)
            sock = socket.create_connection(self.address)
            sock.setblocking(False)
            guest = Guest(sock, time.monotonic(), 0 if number % 2 and drip else -1)
            drip -= guest.drip == 0
            self.guests.add(guest)
            self.selector.register(sock, selectors.EVENT_READ, guest)
            if guest.drip == 0:
                self._due.append(Next(guest.since, number, guest))
            self.turn(0)
        heapq.heapify(self._due)

    def turn(self, wait_s: float) -> None:
        """See who was closed, and let those speak who are to."""
        now = time.monotonic()
        while self._due and self._due[0].when <= now:
            _, number, guest = heapq.heappop(self._due)
            if guest in self.guests:
                self._speak(guest)
                heapq.heappush(self._due, Next(now + DRIP_S, number, guest))
        for key, _ in self.selector.select(wait_s):
            self._hear(key.data)

    def _speak(self, guest: Guest) -> None:
        with contextlib.suppress(OSError):  # hearing tells
            guest.drip += guest.sock.send(HELLO[guest.drip : guest.drip + 1])

    def _hear(self, guest: Guest) -> None:
        try:
            if guest.sock.recv(4_096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.slowest_s = max(self.slowest_s, time.monotonic() - guest.since)
        self.selector.unregister(guest.sock)
        guest.sock.close()
        self.guests.discard(guest)


class Prober:
    """One connection after the other that tries a wrong secret, at a rate."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.address = options["host"], options["port"]
        self.per_s = int(options["wrong_per_s"])
        self.seconds = float(options["seconds"])
        self.selector = selectors.DefaultSelector()
        self.open = self.tried = 0
        self.identity = Identity(
            node_id=66,
            epoch=5,
            max_frame_bytes=1 << 20,
            records=_backend.kernels.Records,
            keys=KeyRing((b"not the secret of anybody",)),
        )

    def run(self) -> None:
        """Try until the time is over; a connection that cannot be made now counts as tried."""
        begin = time.monotonic()
        while (spent := time.monotonic() - begin) < self.seconds or self.open:
            while spent < self.seconds and self.tried < spent * self.per_s and self.open < 1_000:
                self._try()
            for key, _ in self.selector.select(0.001):
                self._answer(key.fileobj, key.data)
            if spent > self.seconds + 10:
                break

    def _try(self) -> None:
        self.tried += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self.address)
        self.open += 1
        self.selector.register(sock, selectors.EVENT_WRITE, None)

    def _answer(self, sock: Any, machine: Initiator | None) -> None:  # noqa: ANN401
        try:
            if machine is None:
                machine = Initiator(
                    self.identity,
                    expected_node=None,
                    link=1,
                    parallel=False,
                    nonce=os.urandom(wire.NONCE_BYTES),
                )
                # The right key id is no secret: it was seen in some HELLO, or in the answer.
                self.selector.modify(sock, selectors.EVENT_READ, machine)
                sock.send(machine.data_to_send())
                return
            data = sock.recv(4_096)
            if not data:
                raise ConnectionResetError
            if data[0] == wire.KIND_HELLO:
                sock.send(bytes([wire.KIND_AUTH, 0, 0, wire.NONCE_BYTES]) + bytes(32))
        except BlockingIOError:
            return
        except OSError:
            self.selector.unregister(sock)
            sock.close()
            self.open -= 1


def main() -> None:
    """Be the crowd."""
    options = json.loads(sys.argv[1])
    if options.get("wrong_per_s"):
        print("ready", flush=True)
        prober = Prober(options)
        prober.run()
        print(json.dumps({"tried": prober.tried}))
        return
    crowd = Crowd(options)
    arrive_s = float(options.get("arrive_s", 0))
    crowd.open(int(options.get("silent", 0)), int(options.get("drip", 0)), arrive_s)
    print("ready", flush=True)
    end = time.monotonic() + float(options.get("patience_s", 20))
    while crowd.guests and time.monotonic() < end:
        crowd.turn(0.01)
    print(json.dumps({"left": len(crowd.guests), "slowest_s": crowd.slowest_s}))


if __name__ == "__main__":
    main()
