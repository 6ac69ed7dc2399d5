"""Frames that cost more than they say: empty ones, too large ones, and one byte at a time.

A million empty frames are no more than a million; a length beyond the limit is refused before
anything of it came; and a frame up to the limit costs the same per byte, however it is cut.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time

from netcore.cli.screen import Screen

from .scenario import Table
from .strangers import HELLO
from .victim import Victim, victims

AUTH = b"\x09\x00\x00\x00"
PING = b"\x10\x00\x00\x0b" + bytes(11)
EMPTY_EXTENSION = b"\x80\x00\x00\x00"
#: A message of 8 bytes, nothing but its header, to a service that is not there.
EMPTY_MESSAGE = b"\x00\x00\x00\x08" + b"\x00\x40\x01\x63" + bytes(4)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many, and how large."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--largest-kib", type=int, default=1_024, help="of those cut into pieces")


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Send them."""
    node = {"node": 1, "dead_ms": 600_000}
    with victims(Victim(options.backend, node=node)) as (victim,):
        for name, frame, counter in (
            ("empty frames of an unknown kind", EMPTY_EXTENSION, "frames_ignored"),
            ("messages of nothing to nobody", EMPTY_MESSAGE, "dropped_no_service"),
        ):
            screen.show([f"{options.frames} {name}"])
            before, grown, after = flood(victim, frame, options.frames, counter)
            table.add(name, after[counter] - before[counter], str(options.frames),
                      holds=after[counter] - before[counter] == options.frames)  # fmt: skip
            cost_ns = 1e9 * (after["cpu_s"] - before["cpu_s"]) / options.frames
            table.add("  CPU per frame", f"{cost_ns:.0f} ns")
            table.add("  memory", f"+{grown} KiB", "< 4096 KiB", holds=grown < 4_096)
        screen.show(["a length beyond the limit"])
        refuse_on_length(victim, table)
        cut(victim, options.largest_kib, screen, table)


def flood(
    victim: Victim, frame: bytes, count: int, counter: str
) -> tuple[dict[str, int], int, dict[str, int]]:
    """Send a frame over and over; return the counters before, the KiB more, the counters after."""
    with link_to(victim) as sock:
        before = victim.until(lambda stats: stats["links"] == 1)
        left = count
        while left:
            some = min(left, 10_000)
            sock.sendall(frame * some)
            left -= some
        after = victim.until(lambda stats: stats[counter] - before[counter] >= count)
    victim.until(lambda stats: not stats["links"])
    return before, after["rss_kib"] - before["rss_kib"], after


def refuse_on_length(victim: Victim, table: Table) -> None:
    """Claim 16 MiB and send none of them: in a message, and in a handshake."""
    for name, first in (("of a link", HELLO + AUTH), ("of a handshake", b"")):
        kind = b"\x00" if first else b"\x08"
        before = victim.ask()
        with socket.create_connection((victim.host, victim.port), 10) as sock:
            sock.sendall(first)
            if first:
                victim.until(lambda stats: stats["links"] == 1)
            begin = time.monotonic()
            sock.sendall(kind + b"\xff\xff\xff")
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4_096):
                    pass
            closed_s = time.monotonic() - begin
        after = victim.until(lambda stats: not stats["links"])
        grown = after["rss_kib"] - before["rss_kib"]
        what = f"16 MiB claimed, {name}: closed after"
        table.add(what, f"{1_000 * closed_s:.1f} ms", "< 1000 ms", holds=closed_s < 1)
        table.add("  memory", f"+{grown} KiB", "< 1024 KiB", holds=grown < 1_024)


def cut(victim: Victim, largest_kib: int, screen: Screen, table: Table) -> None:
    """Send frames of growing size in pieces of 64 bytes; their cost per byte must not grow."""
    costs = []
    size = largest_kib * 1_024 // 16
    while size <= largest_kib * 1_024:
        screen.show([f"a frame of {size} bytes, a little at a time"])
        costs.append(cost_of_pieces(victim, size))
        table.add(f"{size // 1_024} KiB in pieces of 64 bytes", f"{costs[-1]:.0f} ns per byte")
        size *= 4
    table.add("  largest to smallest", f"{costs[-1] / costs[0]:.2f}", "< 3",
              holds=costs[-1] < 3 * costs[0])  # fmt: skip


def cost_of_pieces(victim: Victim, size: int) -> float:
    """Send messages of this size in pieces, one megabyte in all; return CPU ns per byte."""
    body = b"\x00\x40\x01\x63" + bytes(size - 8)
    frame = b"\x00" + (len(body)).to_bytes(3, "big") + body[: size - 4]
    frame = frame[:4] + bytes(body)
    count = max(1, (1 << 20) // size)
    with link_to(victim) as sock:
        before = victim.until(lambda stats: stats["links"] == 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            for at in range(0, len(frame), 64):
                sock.send(frame[at : at + 64])
        wanted = before["dropped_no_service"] + count
        after = victim.until(lambda stats: stats["dropped_no_service"] >= wanted)
    victim.until(lambda stats: not stats["links"])
    return float(1e9 * (after["cpu_s"] - before["cpu_s"]) / (count * size))


def link_to(victim: Victim) -> socket.socket:
    """Return a link to the node, played by a bare socket."""
    sock = socket.create_connection((victim.host, victim.port), 30)
    sock.sendall(HELLO + AUTH)
    return sock
