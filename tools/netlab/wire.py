"""The process of a shaped link: ``python -m tools.netlab.wire``, started by ``Lab``.

Facts first:

- Its arguments are two ends, each a namespace and a TUN device there, the shape of both directions
  as JSON, and a seed.
- A descriptor of /dev/net/tun stays with the namespace in which it was opened, so one process can
  hold both ends: it enters one after the other, and belongs to the second from then on.
- It says ``{}`` when it is ready. Each line on stdin is a JSON object with shapes for ``there`` and
  ``back``, or neither; the answer is the counts of both directions.
- It ends when stdin does, when a device goes, and by SIGKILL when the process that started it dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from .shape import Lane, Shape

__all__ = ["main", "open_tun"]

TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
CLONE_NEWNET: Final = 0x40000000
PR_SET_PDEATHSIG: Final = 1
#: A packet and a bit: the devices have an MTU of 1,500.
PACKET_BYTES: Final = 2_048
#: Packets read from one end before the other one gets its turn.
BURST: Final = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Carry packets until stdin ends."""
    spaces_and_devices = list(sys.argv[1:] if argv is None else argv)
    space_a, device_a, space_b, device_b, shapes, seed = spaces_and_devices
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever holds our stdin
    given = json.loads(shapes)
    rng = random.Random(int(seed))
    fds = [open_tun(space_a, device_a), open_tun(space_b, device_b)]
    lanes = [Lane(Shape(**given[way]), rng) for way in ("there", "back")]
    _say({})
    try:
        _carry(fds, lanes)
    except OSError as error:  # a device is gone, and so is the network
        print(f"a link of the lab ends: {error}", file=sys.stderr)
        return 1
    return 0


def open_tun(space: str, device: str) -> int:
    """Return a descriptor that reads and writes the packets of a TUN device, without waiting."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/run/netns/{space}", os.O_RDONLY)
    try:
        if libc.setns(handle, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns {space}: {os.strerror(number)}")
    finally:
        os.close(handle)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def _carry(fds: Sequence[int], lanes: Sequence[Lane]) -> None:
    while True:
        dues = [due_us for lane in lanes if (due_us := lane.next_us()) is not None]
        wait_s = max(0, min(dues) - _now_us()) / 1e6 if dues else None
        ready = select.select([*fds, 0], [], [], wait_s)[0]
        for at in (0, 1):
            if fds[at] in ready:
                _read(fds[at], lanes[at])
            _write(fds[1 - at], lanes[at].take(_now_us()))
        if 0 in ready and not _obey(lanes):
            return


def _read(fd: int, lane: Lane) -> None:
    for _ in range(BURST):
        try:
            packet = os.read(fd, PACKET_BYTES)
        except BlockingIOError:
            return
        lane.put(_now_us(), packet)


def _write(fd: int, packets: Sequence[bytes]) -> None:
    for packet in packets:
        os.write(fd, packet)


def _obey(lanes: Sequence[Lane]) -> bool:
    line = sys.stdin.buffer.readline()
    if not line:
        return False
    shapes = json.loads(line)
    for lane, way in zip(lanes, ("there", "back"), strict=True):
        if way in shapes:
            lane.shape = Shape(**shapes[way])
    _say({"there": asdict(lanes[0].counts), "back": asdict(lanes[1].counts)})
    return True


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _now_us() -> int:
    return time.monotonic_ns() // 1_000


if __name__ == "__main__":
    sys.exit(main())
