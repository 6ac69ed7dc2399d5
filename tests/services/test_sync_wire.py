"""The bytes of router_sync."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from random import Random

import pytest
import xxhash

from netcore import wire
from netcore.errors import FrameError
from netcore.route import Metric
from netcore.services.sync_losses import MAX_LOSSES
from netcore.services.sync_state import EntrySet
from netcore.services.sync_wire import (
    Delta,
    Digest,
    Full,
    Lost,
    Request,
    SyncMessage,
    decode,
    encode_delta,
    encode_digest,
    encode_entry,
    encode_full,
    encode_lost,
    encode_request,
    hops_of,
    makes_hop,
    metric_of,
)

# slot 5 of layer 0: 1 hop, 3 ms, bandwidth unknown, over node 5
ENTRY_5 = bytes.fromhex("0005 01 00000003 00000000 00000005")
# service 7 (1031): 2 hops, 258 ms, 1000 kbps, from node 9 over node 8
ENTRY_S7 = bytes.fromhex("0407 02 00000102 000003E8 00000009 00000008")
# slot 6 of layer 3 (774): offered by the sender itself would be 0 hops; here a bare one
ENTRY_306 = bytes.fromhex("0306 00 00000000 00000000")


# node 1 hands over to node 2 no longer; serial 7
LOSS_21 = "00000001 00000002 00000007"


def test_encode_entry_is_place_hops_latency_bandwidth() -> None:
    assert encode_entry(5, Metric(3, (5,))) == ENTRY_5
    assert encode_entry(1024 + 7, Metric(258, (9, 8), 1000)) == ENTRY_S7


def test_metric_of_is_inverse_to_encode_entry() -> None:
    assert metric_of(ENTRY_5) == Metric(3, (5,))
    assert metric_of(ENTRY_S7) == Metric(258, (9, 8), 1000)
    assert metric_of(ENTRY_306) == Metric(0, ())


def test_encode_full_is_one_message_when_it_fits() -> None:
    expected = bytes.fromhex("01 00000009 03") + ENTRY_5 + ENTRY_S7
    assert encode_full(9, {1031: ENTRY_S7, 5: ENTRY_5}) == [expected]
    assert decode(expected) == Full(9, True, True, {5: ENTRY_5, 1031: ENTRY_S7})


def test_encode_full_of_nothing_is_one_message() -> None:
    assert encode_full(0, {}) == [bytes.fromhex("01 00000000 03")]


def test_encode_delta_marks_withdrawals() -> None:
    expected = bytes.fromhex("02 FFFFFFFF 8004") + ENTRY_5
    assert encode_delta(0xFFFFFFFF, {5: ENTRY_5, 4: None}) == [expected]
    assert decode(expected) == Delta(0xFFFFFFFF, {4: None, 5: ENTRY_5})


def test_encode_delta_of_nothing_is_no_message() -> None:
    assert encode_delta(3, {}) == []


def test_digest_and_request_have_fixed_forms() -> None:
    assert encode_digest(2, 0x0102030405060708) == bytes.fromhex("03 00000002 0102030405060708")
    assert decode(bytes.fromhex("03 00000002 0102030405060708")) == Digest(2, 0x0102030405060708)
    assert encode_request() == b"\x04"
    assert decode(b"\x04") == Request()


def test_encode_lost_is_losses_by_near_and_far_then_changes() -> None:
    expected = bytes.fromhex(f"05 00000009 02 {LOSS_21} 00000001 00000003 00000008 8004") + ENTRY_5
    assert encode_lost(9, {(3, 1): 8, (2, 1): 7}, {5: ENTRY_5, 4: None}) == [expected]
    assert decode(expected) == Lost(9, {(2, 1): 7, (3, 1): 8}, {4: None, 5: ENTRY_5})


def test_encode_lost_without_changes_is_one_message() -> None:
    assert encode_lost(0xFFFFFFFF, {(2, 1): 7}, {}) == [bytes.fromhex(f"05 FFFFFFFF 01 {LOSS_21}")]


def test_long_lost_goes_on_as_numbered_deltas() -> None:
    changes = {place: encode_entry(place, Metric(1, tuple(range(32)))) for place in range(100)}
    losses = {(far, 500): 7 for far in range(MAX_LOSSES)}
    messages = encode_lost(0xFFFFFFFF, losses, changes)
    assert max(map(len, messages)) <= wire.SYNC_MAX_MESSAGE_BYTES
    first, *rest = (decode(message) for message in messages)
    assert isinstance(first, Lost)
    assert (first.seq, first.losses) == (0xFFFFFFFF, losses)
    seen = dict(first.entries)
    for number, delta in enumerate(rest):
        assert isinstance(delta, Delta)
        assert delta.seq == number
        seen.update(delta.entries)
    assert seen == changes


@pytest.mark.parametrize(
    ("hop", "is_made"),
    [
        ((9, 8), True),  # node 8 hands over to node 9
        ((8, 9), False),
        ((8, 5), True),  # the sender, node 5, to node 8
        ((9, 5), False),
        ((0x0009_0000, 0x0008_0000), False),
    ],
)
def test_makes_hop_looks_at_whole_ids_and_puts_the_sender_last(
    hop: tuple[int, int], is_made: bool
) -> None:
    assert makes_hop(ENTRY_S7, hop, 5) is is_made
    assert (hop in pairwise((*hops_of(ENTRY_S7), 5))) is is_made


def test_makes_hop_is_not_fooled_by_halves_of_ids() -> None:
    # service 7 over 0x00000900, 0x00000800 and 7: behind one byte 9, 8 and 0 would follow
    entry = bytes.fromhex("0407 03 00000102 000003E8 00000900 00000800 00000007")
    assert entry.find(bytes.fromhex("00000009 00000008")) < 0
    assert bytes.fromhex("00090000 00080000") in entry
    assert not makes_hop(entry, (0x90000, 0x80000), 5)
    assert makes_hop(entry, (0x900, 0x800), 5)
    assert makes_hop(entry, (0x800, 7), 5)


def test_makes_hop_is_never_true_without_hops() -> None:
    assert not makes_hop(ENTRY_306, (5, 9), 9)


def test_long_full_is_cut_into_numbered_pieces_below_the_limit() -> None:
    hops = tuple(range(2000, 2032))
    entries = {place: encode_entry(place, Metric(1, hops)) for place in range(1280)}
    messages = encode_full(0xFFFFFFFE, entries)
    assert max(map(len, messages)) <= wire.SYNC_MAX_MESSAGE_BYTES
    assert sum(map(len, messages)) < 192 * 1024
    seen: dict[int, bytes] = {}
    for number, message in enumerate(messages):
        piece = decode(message)
        assert isinstance(piece, Full)
        assert piece.seq == (0xFFFFFFFE + number) % (1 << 32)
        assert (piece.is_first, piece.is_last) == (number == 0, number == len(messages) - 1)
        seen.update(piece.entries)
    assert seen == entries


def test_long_delta_is_cut_into_numbered_pieces_below_the_limit() -> None:
    changes = {place: encode_entry(place, Metric(1, tuple(range(32)))) for place in range(100)}
    messages = encode_delta(7, changes)
    assert len(messages) > 1
    assert max(map(len, messages)) <= wire.SYNC_MAX_MESSAGE_BYTES
    pieces = [decode(message) for message in messages]
    assert [piece.seq for piece in pieces if isinstance(piece, Delta)] == list(
        range(7, 7 + len(messages))
    )


@pytest.mark.parametrize(
    ("payload", "reason", "offset"),
    [
        ("", "truncated", 0),
        ("00", "bad_body", 0),
        ("06", "bad_body", 0),
        ("7F", "bad_body", 0),
        ("04 00", "bad_body", 1),
        ("03 00000002 01020304050607", "truncated", 12),
        ("03 00000002 0102030405060708 00", "bad_body", 13),
        ("02 000000", "truncated", 4),
        ("01 00000009", "truncated", 5),
        ("01 00000009 04", "bad_body", 5),
        ("01 00000009 03 8005", "bad_body", 6),
        ("02 00000009 00", "truncated", 6),
        ("02 00000009 0005 01 00000003 000000", "truncated", 15),
        ("02 00000009 0005 01 00000003 00000000 000000", "truncated", 19),
        ("02 00000009 0005 21 00000003 00000000", "bad_body", 7),
        ("02 00000009 0500 00 00000003 00000000", "bad_body", 5),
        ("02 00000009 8500", "bad_body", 5),
        ("02 00000009 8005 8005", "bad_body", 7),
        ("02 00000009 8005 8004", "bad_body", 7),
        ("05 00000009", "truncated", 5),
        ("05 00000009 00", "bad_body", 5),
        ("05 00000009 01 00000001 00000002 000000", "truncated", 17),
        ("05 00000009 01 00000002 00000002 00000007", "bad_body", 6),
        ("05 00000009 01 FFFFFFFF 00000002 00000007", "bad_body", 6),
        ("05 00000009 01 00000001 FFFFFFFF 00000007", "bad_body", 6),
        (f"05 00000009 02 {LOSS_21} {LOSS_21}", "bad_body", 18),
        (f"05 00000009 02 {LOSS_21} 00000001 00000001 00000007", "bad_body", 18),
        (f"05 00000009 01 {LOSS_21} 8500", "bad_body", 18),
        (f"05 00000009 01 {LOSS_21} 00", "truncated", 19),
    ],
)
def test_decode_malformed_message_says_what_and_where(
    payload: str, reason: str, offset: int
) -> None:
    with pytest.raises(FrameError) as caught:
        decode(bytes.fromhex(payload))
    assert (caught.value.reason, caught.value.offset) == (reason, offset)


@pytest.mark.parametrize("payload", ["80", "FF 01 02"])
def test_decode_message_of_a_later_version_is_none(payload: str) -> None:
    assert decode(bytes.fromhex(payload)) is None


@pytest.mark.parametrize("seed", range(20))
def test_decode_of_anything_is_a_message_or_a_frame_error(seed: int) -> None:
    rnd = Random(seed)
    known = {5: ENTRY_5, 1031: ENTRY_S7}
    valid = encode_full(1, known) + encode_lost(1, {(2, 1): 7, (3, 1): 8}, known)
    for _ in range(300):
        payload = bytearray(
            rnd.choice(valid) if rnd.random() < 0.7 else rnd.randbytes(rnd.randrange(40))
        )
        for _ in range(rnd.randrange(3)):
            if payload:
                payload[rnd.randrange(len(payload))] = rnd.randrange(256)
        with suppress(FrameError):
            check_message(decode(bytes(payload[: rnd.randrange(len(payload) + 1)])))


def check_message(message: SyncMessage | None) -> None:
    """Look at what a receiver would use."""
    if isinstance(message, Full | Delta | Lost):
        for entry in filter(None, message.entries.values()):
            assert len(metric_of(entry).hops) <= wire.MAX_PATH_HOPS


def test_entry_set_digest_is_the_xor_of_the_entries_hashes() -> None:
    entries = EntrySet()
    assert entries.digest == 0
    entries.apply({5: ENTRY_5, 1031: ENTRY_S7, 4: None})
    both = xxhash.xxh3_64_intdigest(ENTRY_5) ^ xxhash.xxh3_64_intdigest(ENTRY_S7)
    assert entries.digest == both
    entries.apply({5: None})
    assert entries.digest == xxhash.xxh3_64_intdigest(ENTRY_S7)
    assert entries.entries == {1031: ENTRY_S7}


def test_entry_set_changes_to_is_what_apply_needs() -> None:
    entries = EntrySet()
    entries.apply({5: ENTRY_5, 1031: ENTRY_S7})
    wanted = {774: ENTRY_306, 1031: ENTRY_S7}
    changes = entries.changes_to(wanted)
    assert changes == {5: None, 774: ENTRY_306}
    entries.apply(changes)
    assert entries.entries == wanted
