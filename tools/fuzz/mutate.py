"""Mutations of inputs: what is wrong with bytes in practice, from one seed for all of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 16, 31, 32, 64, 127, 128, 200, 239, 240, 254, 255)
EDGES = (
    0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF,
)  # fmt: skip
MOST_MUTATIONS = 4
LONGEST_BYTES = 1 << 16  # longer ones are cut: the mutator makes no input that only costs time

Mutation = Callable[[bytearray, random.Random], None]


def _place(data: bytearray, rnd: random.Random) -> int:
    return int(rnd.random() * len(data))


def _flip(data: bytearray, rnd: random.Random) -> None:
    data[_place(data, rnd)] ^= 1 << rnd.getrandbits(3)


def _set(data: bytearray, rnd: random.Random) -> None:
    data[_place(data, rnd)] = NUMBERS[int(rnd.random() * len(NUMBERS))]


def _random_byte(data: bytearray, rnd: random.Random) -> None:
    data[_place(data, rnd)] = rnd.getrandbits(8)


def _edge(data: bytearray, rnd: random.Random) -> None:
    size = 1 << rnd.getrandbits(2)
    value = EDGES[int(rnd.random() * len(EDGES))] & ((1 << 8 * size) - 1)
    at = _place(data, rnd)
    data[at : at + size] = value.to_bytes(size, "big")


def _nudge(data: bytearray, rnd: random.Random) -> None:
    at = _place(data, rnd)
    data[at] = data[at] + rnd.choice((-1, 1)) & 0xFF


def _delete(data: bytearray, rnd: random.Random) -> None:
    at = _place(data, rnd)
    del data[at : at + 1 + rnd.getrandbits(3)]


def _cut(data: bytearray, rnd: random.Random) -> None:
    del data[_place(data, rnd) :]


def _insert(data: bytearray, rnd: random.Random) -> None:
    at = _place(data, rnd)
    data[at:at] = rnd.randbytes(1 + rnd.getrandbits(3))


def _repeat(data: bytearray, rnd: random.Random) -> None:
    at = _place(data, rnd)
    data[at:at] = data[at : at + 1 + rnd.getrandbits(5)]


def _append(data: bytearray, rnd: random.Random) -> None:
    data += bytes([rnd.getrandbits(8)]) * (1 << int(rnd.random() * 9))


def _grow(data: bytearray, rnd: random.Random) -> None:
    if rnd.random() < 0.003:  # a long one now and then: most of the cost is in these
        data += bytes(1 << 12 + int(rnd.random() * 5))


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _set, _random_byte, _edge, _nudge, _delete, _cut, _insert, _repeat, _append, _grow,
)  # fmt: skip


def mutate(data: bytes, rnd: random.Random, others: Sequence[bytes]) -> bytes:
    """Return ``data`` with one to four things wrong, one of which may be a piece of another."""
    changed = bytearray(data)
    for _ in range(1 + int(rnd.random() * MOST_MUTATIONS)):
        if not changed:
            changed += rnd.randbytes(1 + rnd.getrandbits(4))
        elif others and rnd.random() < 0.1:
            other = others[int(rnd.random() * len(others))]
            changed[_place(changed, rnd) :] = other[int(rnd.random() * len(other)) :]
        else:
            MUTATIONS[int(rnd.random() * len(MUTATIONS))](changed, rnd)
    return bytes(changed[:LONGEST_BYTES])
