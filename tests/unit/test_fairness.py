"""One link that floods, ten that do not: what each turn serves, in which order, with what bound.

Turns, bytes and frames are counted; no time is taken.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import SendQueueFullError, _backend, wire
from support.backends import fast_is_built
from support.sinks import NODE_B, Rig, direct, frame, read_all, to_node

BUDGET = 16_384
HIGH = 100_000
POLITE = 10
FLOODER = 0x0A
PING = bytes(11)
PING_FRAME = frame(wire.KIND_PING, PING)
SYNC_FRAME = direct(b"sync", to_service=255).replace(b"\x40\x01", b"\x40\xff")
#: Records that are sealed and have not left go before what is queued later.
SEALED = 4 * wire.MAX_RECORD_BODY_BYTES
KEY = bytes(range(32))


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with Rig(kernels, read_budget_bytes=BUDGET, write_high_bytes=HIGH, write_low_bytes=1) as rig:
        yield rig
        assert rig.errors == []


class Neighbour:
    """The far end of a link: sends as much as its socket takes, reads all there is."""

    def __init__(self, rig: Rig, number: int, *, auth: bool = False, sndbuf: int = 0) -> None:
        records = rig.kernels.Records(KEY, KEY) if auth else None
        self.conn, self.sock = rig.link(
            number << 16 | 0x200, number << 24 | 1, records=records, sndbuf=sndbuf or None
        )
        self._records = rig.kernels.Records(KEY, KEY) if auth else None
        self._unsent = b""
        self.stream = b""

    def send(self, data: bytes) -> bool:
        """Send, or keep what the socket does not take for the next time; False: it took nothing."""
        self._unsent += data if self._records is None else self._records.seal(data)
        return self.push()

    def push(self) -> bool:
        """Send what was kept."""
        try:
            n = self.sock.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            return False
        self._unsent = self._unsent[n:]
        return n != 0

    def fill(self, data: bytes) -> None:
        """Send until the socket is full."""
        while self.push() or (not self._unsent and self.send(data)):
            pass

    def read(self) -> bytes:
        """Read all there is; return the whole stream so far, opened."""
        data = read_all(self.sock)
        self.stream += data if self._records is None else self._records.open(data)
        return self.stream


# -- (a) a flood starves nobody --------------------------------------------------------------------

FLOODS = {
    "small": direct(b"f" * 50) * 300,
    "large": direct(b"f" * 100_000),
    "small, relayed": to_node(NODE_B, b"f" * 50) * 300,
    "large, relayed": to_node(NODE_B, b"f" * 50_000),
    "pings": PING_FRAME * 1_000,
    "sizes mixed": direct(b"f" * 20_000) + to_node(NODE_B, b"f" * 300) * 90 + direct(b"f") * 9,
}


@pytest.mark.parametrize("reads", [True, False], ids=["hop reads", "hop is blocked"])
@pytest.mark.parametrize("auth", [False, True], ids=["open", "auth"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_on_one_link_leaves_every_other_its_turn(
    rig: Rig, flood: bytes, auth: bool, reads: bool
) -> None:
    flooder = Neighbour(rig, FLOODER, auth=auth)
    hop = Neighbour(rig, NODE_B >> 24, auth=auth)
    polite = [Neighbour(rig, 0x20 + number, auth=auth) for number in range(POLITE)]
    before_polite: list[int] = []

    def on_polite(agent: Any, message: Any) -> None:
        before_polite.append(flooder.conn.bytes_received - begun)

    rig.switch.set_behavior(3, on_polite)
    for turn in range(30):
        flooder.fill(flood)
        for neighbour in polite:
            neighbour.send(direct(b"polite", to_service=3))
        begun, handled = flooder.conn.bytes_received, len(before_polite)
        rig.turn()
        assert 0 < flooder.conn.bytes_received - begun <= BUDGET, turn
        assert len(before_polite) - handled == POLITE, turn  # all of them, in the same turn
        assert max(before_polite) <= BUDGET
        if reads:
            hop.read()
        assert hop.conn.queued_bytes < HIGH + len(flood)


def test_large_flood_is_received_as_far_as_the_budget_goes_and_no_further(rig: Rig) -> None:
    flooder = Neighbour(rig, FLOODER)
    flood = direct(bytes(70_000))
    turns = 0
    while flooder.conn.bytes_received < 10 * len(flood):
        flooder.fill(flood)
        before = flooder.conn.bytes_received
        rig.turn()
        turns += 1
        assert flooder.conn.bytes_received - before <= BUDGET
    # Nor much less: where frames meet a turn may end early.
    assert turns <= 2 * 10 * len(flood) // BUDGET


@pytest.mark.parametrize("links", [300, 600])
def test_more_links_than_one_wait_fetches_are_all_served_before_any_twice(
    rig: Rig, links: int
) -> None:
    order: list[int] = []
    rig.switch.set_behavior(2, lambda agent, message: order.append(message.stream_id))
    pairs = [socket.socketpair() for _ in range(links)]
    for number, (ours, theirs) in enumerate(pairs):
        ours.setblocking(False)
        rig.switch.add_connection(number + 1 << 16, NODE_B, sock=ours).start()
        theirs.sendall(direct(bytes(BUDGET - 12), stream_id=number) * 2)
    while len(order) < 2 * links:
        rig.turn()
    assert sorted(order[:links]) == list(range(links))
    for _, theirs in pairs:
        theirs.close()


# -- (b) control frames overtake -------------------------------------------------------------------


def send_bulk(rig: Rig, conn: Any, size: int) -> None:
    """Fill the data queue with messages of this node, in several turns."""
    while conn.queued_bytes < HIGH:
        rig.switch.send_on(conn, bytes(size), 1, 2)
        rig.turn(conn.frames_sent % 7 == 0)


def relay_bulk(rig: Rig, conn: Any, size: int) -> None:
    """Fill it with relayed ones: the first of them are written past it, the last one in part."""
    source, _ = rig.channel()
    while conn.queued_bytes < HIGH:
        source.receive_data(to_node(conn.remote_node_id, bytes(size)) * max(1, 50_000 // size))


@pytest.mark.parametrize("size", [500, 30_000, 90_000])
@pytest.mark.parametrize("auth", [False, True], ids=["open", "auth"])
@pytest.mark.parametrize("fill", [send_bulk, relay_bulk])
def test_control_leaves_at_the_next_frame_boundary_of_a_full_queue(
    rig: Rig, fill: Callable[[Rig, Any, int], None], auth: bool, size: int
) -> None:
    reader = Neighbour(rig, NODE_B >> 24, auth=auth, sndbuf=4_096)
    conn = reader.conn
    fill(rig, conn, size)
    rig.turn(2)
    queued, left = conn.queued_bytes, conn.bytes_sent
    conn.send_control(wire.KIND_PING, PING)
    rig.switch.send_on(conn, b"sync", 255, 255)
    while conn.queued_bytes or conn.control_queued_bytes:
        reader.read()
        rig.turn()
    stream, at, ends = reader.read(), 0, []
    while at < len(stream):
        ends.append(at)
        at += wire.FRAME_HEADER_BYTES + int.from_bytes(stream[at + 1 : at + 4], "big")
    place = stream.index(PING_FRAME)
    assert place in ends
    assert stream[place + len(PING_FRAME) :].startswith(SYNC_FRAME)
    assert queued >= HIGH * 3 // 4
    first = min(end for end in ends if end >= left + auth * SEALED or end == ends[-1])
    assert place <= first
    if not auth:
        assert place == first


# -- (c) a reader that never reads -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 20_000, 60_000])
@pytest.mark.parametrize("auth", [False, True], ids=["open", "auth"])
@pytest.mark.parametrize("relayed", [False, True], ids=["sent", "relayed"])
def test_reader_that_never_reads_costs_its_bound_and_delays_nobody(
    rig: Rig, relayed: bool, auth: bool, size: int
) -> None:
    silent = Neighbour(rig, NODE_B >> 24, auth=auth)
    reader = Neighbour(rig, 0x0C, auth=auth)
    source, _ = rig.channel()
    most, refused = 0, 0
    for turn in range(200):
        for _ in range(100):
            if relayed:
                source.receive_data(to_node(NODE_B, bytes(size)) * 5)
            else:
                refused += not try_send(rig, silent.conn, bytes(size))
        most = max(most, silent.conn.queued_bytes)
        rig.switch.send_on(reader.conn, b"%6d" % turn, 1, 2)
        rig.turn()
        assert reader.read().endswith(b"%6d" % turn)  # in the turn in which it was sent
        assert reader.conn.queued_bytes == 0
    assert HIGH <= most < HIGH + size + 20
    counts = rig.counts()
    dropped = counts.get("dropped_relay_queue_full", 0)
    assert dropped == silent.conn.relay_queue_full
    assert refused == silent.conn.sends_refused
    assert (dropped if relayed else refused) > 1_000
    assert "dropped_link_closed" not in counts


def try_send(rig: Rig, conn: Any, payload: bytes) -> bool:
    try:
        rig.switch.send_on(conn, payload, 1, 2)
    except SendQueueFullError:
        return False
    return True


def test_blocked_link_is_not_written_to_until_it_has_room(rig: Rig) -> None:
    silent = Neighbour(rig, NODE_B >> 24)
    while try_send(rig, silent.conn, bytes(1_000)):
        rig.turn()
    left = silent.conn.bytes_sent
    source, _ = rig.channel()
    source.receive_data(to_node(NODE_B, bytes(1_000)) * 50)
    rig.turn(3)
    assert silent.conn.bytes_sent == left
    while silent.conn.queued_bytes:
        silent.read()
        rig.turn()
    assert rig.counts().get("dropped_link_closed", 0) == 0
    assert len(silent.read()) == silent.conn.bytes_sent


def test_small_frames_are_taken_in_portions_where_each_costs_a_call() -> None:
    with Rig(_backend.load("pure"), read_budget_bytes=1 << 16) as rig:
        flooder = Neighbour(rig, FLOODER)
        most = [flood_turn(rig, flooder, direct(b"f" * 50) * 300, frames=True) for _ in range(12)]
        assert most[0] > 1_000
        assert 64 < max(most[6:]) <= 2 * 256
        sizes = [flood_turn(rig, flooder, direct(bytes(100_000)), frames=False) for _ in range(80)]
        assert max(sizes[-6:]) == 1 << 16


@pytest.mark.skipif(not fast_is_built(), reason="compiled kernels not built")
def test_compiled_kernels_take_less_of_a_flood_while_other_links_wait() -> None:
    with Rig(_backend.load("fast"), read_budget_bytes=1 << 17) as rig:
        flooder, polite = Neighbour(rig, FLOODER), Neighbour(rig, 0x20)
        flood = direct(b"f" * 50) * 300
        alone = [flood_turn(rig, flooder, flood, frames=True) for _ in range(12)]
        assert max(alone[6:]) > 512
        beside = []
        for _ in range(12):
            polite.send(direct(b"polite"))
            beside.append(flood_turn(rig, flooder, flood, frames=True))
        assert 32 < max(beside[3:]) <= 2 * 128
        again = [flood_turn(rig, flooder, flood, frames=True) for _ in range(90)]
        assert max(again[-6:]) > 512  # nobody waits any more


def flood_turn(rig: Rig, flooder: Neighbour, flood: bytes, *, frames: bool) -> int:
    """Return how many frames, or bytes, a turn took."""
    flooder.fill(flood)
    conn = flooder.conn
    before = conn.frames_received if frames else conn.bytes_received
    rig.turn()
    return int((conn.frames_received if frames else conn.bytes_received) - before)
