"""What somebody on the wire may try with what was said: change it, repeat it, take something out.

Handshake and records are driven without sockets; ``test_handshake`` has the single cases.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from netcore import _backend, wire
from netcore.handshake import Accepted, Initiator, Responder
from support.handshake_pair import (
    OTHER_SECRET,
    SECRET,
    Pair,
    accepted,
    failed,
    identity,
    initiator,
    responder,
)

#: In all, over the four kinds of replay.
REPLAYS = 10_000

_FRAME_HEADER = 4
_MAGIC, _VERSIONS, _LEVELS = slice(4, 8), slice(8, 10), 10
_NODE, _EXPECTED = slice(13, 17), slice(17, 21)


def conversation(*secrets: bytes, nonce: int = 0xAA) -> Pair:
    """Return a whole conversation between node 1 and node 2."""
    pair = Pair(
        initiator(identity(1, secrets), expected=2, nonce=nonce),
        responder(identity(2, secrets), nonce=nonce ^ 0xFF),
    )
    pair.run()
    accepted(pair.i)
    accepted(pair.r)
    return pair


def say(side: Initiator | Responder, data: bytes) -> None:
    """Feed one side all of it; its driver takes every decision in favour of the link."""
    for at in range(0, len(data), 73):  # HELLO, then the rest
        if isinstance(side.result, Accepted):
            return
        side.receive_data(data[at : at + 73])
        side.data_to_send()
        if side.state == "NEED_PROCEED" and isinstance(side, Initiator):
            side.proceed()
        if side.state == "NEED_DECISION" and isinstance(side, Responder):
            side.answer()
        if side.state == "ANSWERED" and isinstance(side, Responder):
            side.accept()


# -- again ---------------------------------------------------------------------------------------


def fresh_nonce(rng: random.Random) -> bytes:
    return rng.randbytes(32)


def same_listener(rng: random.Random) -> Initiator | Responder:
    return Responder(identity(2, [SECRET]), nonce=fresh_nonce(rng), link=rng.randrange(1 << 32))


def other_listener(rng: random.Random) -> Initiator | Responder:
    return Responder(identity(rng.randrange(3, 1 << 31), [SECRET]), nonce=fresh_nonce(rng), link=9)


def restarted_listener(rng: random.Random) -> Initiator | Responder:
    again = identity(2, [SECRET], epoch=rng.randrange(1, 1 << 63))
    return Responder(again, nonce=fresh_nonce(rng), link=9)


def dialler(rng: random.Random) -> Initiator | Responder:
    own = identity(3, [SECRET], epoch=rng.randrange(1, 1 << 63))
    return Initiator(own, expected_node=None, link=7, parallel=False, nonce=fresh_nonce(rng))


VICTIMS = [same_listener, other_listener, restarted_listener, dialler]


@pytest.mark.parametrize("victim", VICTIMS)
def test_recorded_handshakes_are_never_accepted(
    victim: Callable[[random.Random], Initiator | Responder],
) -> None:
    rng = random.Random(5)
    said = [conversation(SECRET, nonce=nonce).sent for nonce in range(1, 5)]
    ended = 0
    for turn in range(REPLAYS // len(VICTIMS)):
        sent = said[turn % len(said)]
        # Of both sides, to whom it was said and to the other one, as in a reflection.
        side = victim(rng)
        say(side, sent["i" if turn & 4 else "r"])
        assert not isinstance(side.result, Accepted)
        ended += side.result is not None
    # Who was told of another node, or by one of its own role, has ended already.
    assert ended > REPLAYS // len(VICTIMS) // 3


def test_the_recorded_handshake_would_be_accepted_by_whom_it_was_for() -> None:
    # Else the test above shows nothing.
    pair = conversation(SECRET, nonce=1)
    again = responder(identity(2, [SECRET]), nonce=1 ^ 0xFF)
    say(again, pair.sent["i"])
    accepted(again)


def test_recorded_records_are_never_opened(backend: _backend.BackendName) -> None:
    make = _backend.load(backend).Records
    rng = random.Random(6)
    for turn in range(1_000):
        keys = [rng.randbytes(32) for _ in range(4)]
        recorded = make(keys[0], keys[1]).seal(b"a message")
        if turn % 3 == 0:  # in another session, or after a restart
            victim = make(keys[3], keys[2])
        elif turn % 3 == 1:  # in the other direction
            victim = make(keys[0], keys[1])
        else:  # in the same session, once more
            victim = make(keys[1], keys[0])
            assert victim.open(recorded) == b"a message"
        assert victim.open(recorded) == b""
        assert victim.error is not None


# -- changed -------------------------------------------------------------------------------------


def level_open(data: bytes) -> bytes:
    return data[:_LEVELS] + bytes([wire.LEVEL_OPEN]) + data[_LEVELS + 1 :]


@pytest.mark.parametrize("stripped", ["i", "r", "ir"])
def test_level_stripped_on_the_way_ends_in_failure_on_both_sides(stripped: str) -> None:
    def bend(sender: str, offset: int, data: bytes) -> bytes:
        return level_open(data) if sender in stripped and offset == 0 and data else data

    pair = Pair(initiator(identity(1, [SECRET])), responder(identity(2, [SECRET])), bend=bend)
    pair.run()
    pair.time_out()
    failed(pair.i)
    failed(pair.r)


def test_conversation_at_level_open_between_nodes_with_a_secret_makes_no_link() -> None:
    """Everything that proves something is taken out, on both ways."""
    said = {"i": b"", "r": b""}
    pair = conversation()
    for sender in said:
        said[sender] = pair.sent[sender]
    for side, sender in (
        (initiator(identity(1, [SECRET]), expected=2), "r"),
        (responder(identity(2, [SECRET])), "i"),
    ):
        side.data_to_send()
        say(side, said[sender])
        failed(side)


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("sender", ["i", "r"])
def test_changed_byte_at_level_open_fails_where_it_decides_anything(sender: str, mask: int) -> None:
    """Nothing is authenticated there: magic, version, level, length and ids are checked."""
    whole = conversation().sent[sender]
    checked = {
        *range(_FRAME_HEADER),
        *range(_MAGIC.start, _MAGIC.stop),
        *range(_EXPECTED.start, _EXPECTED.stop),
        *range(73, len(whole)),  # AUTH, which is empty, and READY
    }
    if sender == "r":
        checked |= set(range(_NODE.start, _NODE.stop))
    for at in sorted(checked):
        pair = open_pair_with(sender, at, mask)
        pair.run()
        pair.time_out()
        sides = [side for side in (pair.i, pair.r) if isinstance(side.result, Accepted)]
        # Whoever has proved itself already may not learn of it before its first frame.
        assert not sides or (sides == [pair.r] and sender == "r" and at >= 73), (at, sides)


def open_pair_with(sender: str, at: int, mask: int) -> Pair:
    def bend(name: str, offset: int, data: bytes) -> bytes:
        if name != sender or not offset <= at < offset + len(data):
            return data
        bent = bytearray(data)
        bent[at - offset] ^= mask
        return bytes(bent)

    return Pair(initiator(identity(1), expected=2), responder(identity(2)), bend=bend)


def test_two_diallers_and_two_listeners_make_no_link() -> None:
    """Roles are swapped: each gets what another of its own kind says."""
    one, two = initiator(identity(1, [SECRET])), initiator(identity(2, [SECRET]), nonce=0xBB)
    for _ in range(3):
        say(one, two.data_to_send())
        say(two, one.data_to_send())
    assert not isinstance(one.result, Accepted)
    assert not isinstance(two.result, Accepted)
    pair = conversation(SECRET)
    listener = responder(identity(1, [SECRET]))
    say(listener, pair.sent["r"])
    assert not isinstance(listener.result, Accepted)


# -- other secrets -------------------------------------------------------------------------------


def flipped(at: int) -> bytes:
    bent = bytearray(SECRET)
    bent[at // 8] ^= 1 << at % 8
    return bytes(bent)


def test_secret_that_differs_in_any_one_bit_is_another_secret() -> None:
    for at in range(len(SECRET) * 8):
        pair = Pair(initiator(identity(1, [flipped(at)])), responder(identity(2, [SECRET])))
        pair.run()
        pair.time_out()
        failed(pair.i)
        failed(pair.r)


def test_stranger_cannot_tell_which_nodes_are_known_here() -> None:
    """The answer to a wrong secret does not depend on who the stranger claims to be."""
    answers = set()
    for node_id in (1, 3, 77, 0xFFFFFFF0):
        stranger = initiator(identity(node_id, [OTHER_SECRET], epoch=5), expected=2)
        pair = Pair(stranger, responder(identity(2, [SECRET], epoch=6)))
        pair.run()
        answer = bytearray(pair.sent["r"])
        answer[_EXPECTED] = bytes(4)  # it says back whom it answers
        answers.add((bytes(answer), type(failed(stranger).error), str(failed(stranger).error)))
    assert len(answers) == 1
