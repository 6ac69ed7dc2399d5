from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from netcore import wire
from netcore.errors import (
    AlreadyConnected,
    AuthenticationError,
    BehaviorRejected,
    DestinationNotFound,
    DuplicateNodeId,
    HandshakeTimeout,
    IdentityMismatch,
    LocalError,
    OutgoingConnectionError,
    RemoteRejected,
    SelfConnect,
    TooManyConnections,
    UnsupportedProtocol,
)
from netcore.handshake import Identity, Initiator, Responder
from netcore.keys import KeyRing
from support.handshake_pair import (
    OTHER_SECRET,
    SECRET,
    Bend,
    Pair,
    accepted,
    failed,
    identity,
    initiator,
    responder,
)

# A whole conversation at level auth, computed with a separate program.
HELLO_I = bytes.fromhex(
    "08000045"  # kind, length 69
    "4e455443 01 01 02"  # magic, versions 1..1, level auth
    "0001"  # flags: parallel
    "0a0b0c01 0a0b0c02"  # node, expected node
    "1112131415161718"  # epoch
    "00000007 00100000"  # link, max frame 1 MiB
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"  # nonce
    "b2730d26"  # key id
)
HELLO_R = bytes.fromhex(
    "08000045"
    "4e455443 01 01 02"
    "0001"
    "0a0b0c02 0a0b0c01"
    "2122232425262728"
    "00000009 00008000"  # link, max frame 32 KiB
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
    "b2730d26"
)
AUTH_I = bytes.fromhex("09000020 ae33a400b29a4c44d6bc9e34a99b0be95fb6ad73edf9f274dc0461b4fa680a04")
AUTH_R = bytes.fromhex("09000020 d43d402608c3d60cd37c72af743b74d7a49e251d4075cd6ad4c97d4bd80cee82")
READY_RECORD = bytes.fromhex("000004 0a000000 5d615b19f479616b9e4394b37c85efb1")
READY = bytes.fromhex("0a000000")
EMPTY_AUTH = bytes.fromhex("09000000")

VECTOR_I = identity(0x0A0B0C01, [SECRET], epoch=0x1112131415161718)
VECTOR_R = replace(identity(0x0A0B0C02, [SECRET], epoch=0x2122232425262728), max_frame_bytes=0x8000)


def vector_initiator() -> Initiator:
    return initiator(VECTOR_I, expected=VECTOR_R.node_id, parallel=True)


def auth_pair(bend: Bend | None = None, chunk: int = 1 << 16) -> Pair:
    i, r = vector_initiator(), responder(VECTOR_R)
    return Pair(i, r, chunk=chunk) if bend is None else Pair(i, r, bend=bend, chunk=chunk)


def open_pair() -> Pair:
    return Pair(initiator(identity(1)), responder(identity(2)))


# -- the way that it should go -------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1 << 16, 1])
def test_handshake_at_level_auth_matches_the_vector(chunk: int) -> None:
    pair = auth_pair(chunk=chunk)
    pair.run()
    assert pair.sent["i"] == HELLO_I + AUTH_I
    assert pair.sent["r"] == HELLO_R + AUTH_R + READY_RECORD


@pytest.mark.parametrize("chunk", [1 << 16, 1])
def test_handshake_at_level_open_sends_empty_proofs(chunk: int) -> None:
    pair = Pair(initiator(identity(1)), responder(identity(2)), chunk=chunk)
    pair.run()
    assert pair.sent["i"][73:] == EMPTY_AUTH
    assert pair.sent["r"][73:] == EMPTY_AUTH + READY


def test_accepted_says_who_is_at_the_other_end() -> None:
    pair = auth_pair()
    pair.run()
    assert repr(accepted(pair.i).peer) == (
        "PeerInfo(node_id=168496130, epoch=2387509390608836392, link=9, max_frame_bytes=32768, "
        "parallel=True, level=2)"
    )
    assert repr(accepted(pair.r).peer) == (
        "PeerInfo(node_id=168496129, epoch=1230066625199609624, link=7, max_frame_bytes=32768, "
        "parallel=True, level=2)"
    )


def test_accepted_at_level_open_has_no_records() -> None:
    pair = open_pair()
    pair.run()
    assert accepted(pair.i).records is None
    assert accepted(pair.r).records is None
    assert accepted(pair.i).peer.level == wire.LEVEL_OPEN
    assert not accepted(pair.r).peer.parallel


def test_accepted_records_fit_behind_ready() -> None:
    pair = auth_pair()
    pair.run()
    i, r = accepted(pair.i).records, accepted(pair.r).records
    assert i is not None
    assert r is not None
    assert i.open(r.seal(b"to i")) == b"to i"
    assert r.open(i.seal(b"to r")) == b"to r"


def test_rest_at_level_open_is_what_came_behind_ready() -> None:
    pair = open_pair()
    pair.step()
    pair.i.proceed()
    pair.i.receive_data(EMPTY_AUTH + READY + b"x" * 4000)
    assert accepted(pair.i).rest == b"x" * 4000


def test_rest_at_level_auth_is_opened_and_the_records_go_on_behind_it() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    pair.r.answer()
    pair.r.accept()
    sender = accepted(pair.r).records
    assert sender is not None
    data = pair.r.data_to_send() + sender.seal(b"first") + sender.seal(b"second")
    pair.i.receive_data(data[:-9])
    result = accepted(pair.i)
    assert result.rest == b"first"
    assert result.records is not None
    assert result.records.open(data[-9:]) == b"second"


def test_peer_is_known_to_both_sides_before_any_proof() -> None:
    pair = auth_pair()
    assert pair.i.peer is None
    pair.step()
    assert pair.i.state == "NEED_PROCEED"
    assert pair.i.peer is not None
    assert pair.r.state == "WAIT_AUTH"
    assert pair.r.peer is not None


def test_responder_proves_nothing_before_it_is_told_to() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    assert pair.r.state == "NEED_DECISION"
    assert pair.r.data_to_send() == b""
    assert pair.i.state == "AUTH_SENT"


# -- secrets -------------------------------------------------------------------------------------


def run(i: Identity, r: Identity, *, expected: int | None = None) -> Pair:
    pair = Pair(initiator(i, expected=expected), responder(r))
    pair.run()
    return pair


@pytest.mark.parametrize(
    ("secrets_i", "secrets_r"),
    [
        ([SECRET], [OTHER_SECRET]),
        ([SECRET], []),
        ([], [SECRET]),
        ([SECRET, OTHER_SECRET], [b"a third one of 23 bytes"]),
    ],
    ids=["wrong", "dialling node only", "dialled node only", "rotation without a common one"],
)
def test_handshake_without_a_common_secret_fails_on_both_sides(
    secrets_i: list[bytes], secrets_r: list[bytes]
) -> None:
    pair = run(identity(1, secrets_i), identity(2, secrets_r))
    for side in (pair.i, pair.r):
        assert isinstance(failed(side).error, AuthenticationError)
        assert failed(side).code == wire.REJECT_AUTHENTICATION


@pytest.mark.parametrize(
    ("secrets_i", "secrets_r"),
    [
        ([SECRET], [OTHER_SECRET, SECRET]),
        ([OTHER_SECRET, SECRET], [SECRET]),
        ([OTHER_SECRET, SECRET], [SECRET, OTHER_SECRET]),
    ],
    ids=["the dialled node has a newer one", "the dialling node has", "another order"],
)
def test_handshake_during_a_rotation_finds_the_common_secret(
    secrets_i: list[bytes], secrets_r: list[bytes]
) -> None:
    pair = run(identity(1, secrets_i), identity(2, secrets_r))
    assert accepted(pair.i).peer.level == accepted(pair.r).peer.level == wire.LEVEL_AUTH


def test_responder_uses_the_key_of_the_initiator_when_it_has_it() -> None:
    pair = run(identity(1, [SECRET]), identity(2, [OTHER_SECRET, SECRET]))
    assert pair.sent["r"][69:73] == KeyRing([SECRET]).first_id


def test_handshake_with_a_key_id_that_only_looks_right_fails_at_the_responder() -> None:
    # The initiator believes that its key has the id of the other's: 32 bits can collide.
    ring = KeyRing([OTHER_SECRET])
    fake = KeyRing([SECRET])
    fake._keys = {ring.first_id: b"\x00" * 32}
    fake.first_id = ring.first_id
    pair = Pair(initiator(replace(identity(1), keys=fake)), responder(identity(2, [OTHER_SECRET])))
    pair.run()
    assert isinstance(failed(pair.r).error, AuthenticationError)
    assert isinstance(failed(pair.i).error, AuthenticationError)
    assert AUTH_R[:4] not in pair.sent["r"][73:]  # it proved nothing


def test_initiator_does_not_believe_a_responder_without_the_secret() -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R)
    i.proceed()
    i.receive_data(AUTH_R[:-1] + b"\x00")
    assert isinstance(failed(i).error, AuthenticationError)


def test_initiator_with_a_secret_refuses_an_answer_at_level_open() -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R.replace(b"NETC\x01\x01\x02", b"NETC\x01\x01\x01"))
    assert isinstance(failed(i).error, AuthenticationError)


def test_responder_offered_both_levels_takes_its_own() -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I.replace(b"NETC\x01\x01\x02", b"NETC\x01\x01\x03"))
    assert r.data_to_send()[10] == wire.LEVEL_AUTH


def test_repr_of_everything_shows_no_secret() -> None:
    pair = auth_pair()
    pair.run()
    shown = " ".join(map(repr, (VECTOR_I, pair.i, pair.r, pair.i.result, pair.r.result)))
    for secret in (SECRET, *KeyRing([SECRET])._keys.values()):
        assert repr(secret)[2:-1] not in shown


# -- tampering -----------------------------------------------------------------------------------


def flip(sender: str, at: int, mask: int) -> Bend:
    def bend(name: str, offset: int, data: bytes) -> bytes:
        if name != sender or not offset <= at < offset + len(data):
            return data
        bent = bytearray(data)
        bent[at - offset] ^= mask
        return bytes(bent)

    return bend


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize(
    ("sender", "at"),
    [("i", at) for at in range(len(HELLO_I + AUTH_I))]
    + [("r", at) for at in range(len(HELLO_R + AUTH_R))],
)
def test_any_changed_byte_before_ready_fails_at_whoever_verifies_it(
    sender: str, at: int, mask: int
) -> None:
    pair = auth_pair(flip(sender, at, mask))
    pair.run()
    pair.time_out()  # a frame made longer only makes its reader wait
    failed(pair.i)
    if sender == "i" or at < len(HELLO_R):
        failed(pair.r)


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("at", range(len(READY_RECORD)))
def test_any_changed_byte_of_ready_leaves_the_initiator_without_a_link(at: int, mask: int) -> None:
    pair = auth_pair(flip("r", len(HELLO_R + AUTH_R) + at, mask))
    pair.run()
    pair.time_out()
    failed(pair.i)


def test_replay_of_an_old_initiator_fails() -> None:
    r = responder(VECTOR_R, nonce=0xCC)  # the vector is a recording of nonce 0xBB
    r.receive_data(HELLO_I)
    r.data_to_send()
    r.receive_data(AUTH_I)
    assert isinstance(failed(r).error, AuthenticationError)


def test_replay_of_an_old_responder_fails() -> None:
    i = initiator(VECTOR_I, expected=VECTOR_R.node_id, parallel=True, nonce=0xCC)
    i.receive_data(HELLO_R)
    i.proceed()
    i.receive_data(AUTH_R + READY_RECORD)
    assert isinstance(failed(i).error, AuthenticationError)


def test_proof_of_the_initiator_sent_back_to_it_fails() -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R)
    i.proceed()
    i.receive_data(AUTH_I)
    assert isinstance(failed(i).error, AuthenticationError)


def test_hello_of_the_initiator_sent_back_to_it_is_a_self_connect() -> None:
    i = initiator(VECTOR_I)
    i.receive_data(i.data_to_send())
    assert isinstance(failed(i).error, SelfConnect)


def test_hello_longer_than_ours_is_taken_and_covered_by_the_proofs() -> None:
    r = responder(VECTOR_R)
    longer = bytes.fromhex("08000047") + HELLO_I[4:] + b"ab"
    r.receive_data(longer)
    assert r.state == "WAIT_AUTH"
    r.receive_data(AUTH_I)  # made over the shorter one
    assert isinstance(failed(r).error, AuthenticationError)


# -- identity and version ------------------------------------------------------------------------


@pytest.mark.parametrize("secrets", [[], [SECRET]], ids=["open", "auth"])
def test_another_node_than_expected_is_an_identity_mismatch_on_both_sides(
    secrets: list[bytes],
) -> None:
    pair = run(identity(1, secrets), identity(2, secrets), expected=3)
    for side in (pair.i, pair.r):
        assert isinstance(failed(side).error, IdentityMismatch)
        assert failed(side).code == wire.REJECT_IDENTITY_MISMATCH
    assert "expected node 3, found node 2" in str(failed(pair.i).error)


def test_initiator_checks_itself_who_answers() -> None:
    i = initiator(VECTOR_I, expected=5)
    i.receive_data(HELLO_R)
    assert isinstance(failed(i).error, IdentityMismatch)
    assert i.data_to_send()[73:].startswith(b"\x0b\x00\x00")  # and tells the responder


def test_dial_to_the_own_address_is_a_self_connect() -> None:
    me = identity(1)
    pair = run(me, me)
    for side in (pair.i, pair.r):
        assert isinstance(failed(side).error, SelfConnect)


def test_two_nodes_with_one_id_are_told_so() -> None:
    pair = run(identity(1, epoch=5), identity(1, epoch=6))
    for side in (pair.i, pair.r):
        assert isinstance(failed(side).error, DuplicateNodeId)


def test_initiator_finds_its_own_id_at_the_other_end() -> None:
    i = initiator(identity(0x0A0B0C02, [SECRET]))
    i.receive_data(HELLO_R)
    assert isinstance(failed(i).error, DuplicateNodeId)


def test_initiator_answered_for_another_node_fails() -> None:
    i = initiator(identity(7, [SECRET]))
    i.receive_data(HELLO_R)  # its expected node is 0x0a0b0c01
    assert isinstance(failed(i).error, UnsupportedProtocol)


@pytest.mark.parametrize("versions", ["0202", "0000", "0201"])
def test_responder_without_a_common_version_says_so(versions: str) -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I[:8] + bytes.fromhex(versions) + HELLO_I[10:])
    assert isinstance(failed(r).error, UnsupportedProtocol)
    assert failed(r).code == wire.REJECT_VERSION
    i = vector_initiator()
    i.receive_data(r.data_to_send())
    assert isinstance(failed(i).error, UnsupportedProtocol)


def test_responder_picks_version_1_out_of_a_range() -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I[:8] + b"\x00\x09" + HELLO_I[10:])
    assert r.data_to_send()[8:10] == b"\x01\x01"


@pytest.mark.parametrize("versions", ["0203", "0102"])
def test_initiator_answered_in_another_version_fails(versions: str) -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R[:8] + bytes.fromhex(versions) + HELLO_R[10:])
    assert isinstance(failed(i).error, UnsupportedProtocol)


def test_unknown_flags_are_ignored() -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I[:11] + b"\xff\xfe" + HELLO_I[13:])
    assert r.peer is not None
    assert not r.peer.parallel


# -- bytes that no node sends --------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "474554202f",  # "GET /"
        "00000000",  # MESSAGE
        "07000000",
        "0c000000",
        "10000000",  # PING
        "80000000",  # an extension
        "08000101",  # 257 bytes, refused on the length alone
        "08ffffff",
        "09000000",  # AUTH first
        "0a000000",  # READY first
        "0b000001 00",  # a REJECT without a code
        "08000000",  # an empty HELLO
        "08000006 4e455443 0101",  # nothing but its head
        "08000006 4e455444 0101",  # another magic
        HELLO_I[:13].hex() + "ffffffff" + HELLO_I[17:].hex(),  # the one node id that is none
    ],
)
def test_responder_fails_quietly_on_what_no_node_sends(data: str) -> None:
    r = responder(VECTOR_R)
    r.receive_data(bytes.fromhex(data))
    assert isinstance(failed(r).error, UnsupportedProtocol)
    assert r.data_to_send() == b""


def test_plain_side_that_is_met_by_tls_says_so() -> None:
    r = responder(VECTOR_R)
    r.receive_data(bytes.fromhex("16030102"))  # a TLS handshake record
    assert isinstance(failed(r).error, AuthenticationError)
    text = b"the other end speaks TLS, and this node does not"
    assert r.data_to_send() == bytes([0x0B, 0, 0, 2 + len(text), 0, 7]) + text
    i = initiator(VECTOR_I)
    i.data_to_send()
    i.receive_data(bytes.fromhex("15030300"))  # an alert
    assert isinstance(failed(i).error, AuthenticationError)
    assert i.data_to_send() == b""


# -- level tls -----------------------------------------------------------------------------------


def tls_identity(node_id: int, secrets: Sequence[bytes] = ()) -> Identity:
    return replace(identity(node_id, secrets), tls=True)


def tls_pair(*, r_certified: int = 1, i_certified: int = 2, **keys: Any) -> Pair:
    """Return two sides whose TLS has said who is at the other end."""
    pair = Pair(initiator(tls_identity(1, **keys), expected=2), responder(tls_identity(2, **keys)))
    pair.i.certify(i_certified)
    pair.r.certify(r_certified)
    return pair


@pytest.mark.parametrize("secrets", [(), (SECRET,)])
def test_certified_sides_link_up_without_records(secrets: Sequence[bytes]) -> None:
    pair = tls_pair(secrets=secrets)
    pair.run()
    for side in (pair.i, pair.r):
        assert accepted(side).records is None
        assert accepted(side).peer.level == wire.LEVEL_TLS
    assert pair.sent["i"][10:11] == b"\x04"  # the level in HELLO


def test_side_that_was_never_certified_accepts_nobody() -> None:
    pair = Pair(initiator(tls_identity(1)), responder(tls_identity(2)))
    pair.run()
    assert isinstance(failed(pair.r).error, AuthenticationError)
    assert isinstance(failed(pair.i).error, AuthenticationError)


def test_hello_of_another_node_than_the_certificate_is_refused() -> None:
    pair = tls_pair(r_certified=3)
    pair.run()
    for side in (pair.i, pair.r):
        assert "node 1 came with the certificate of node 3" in str(failed(side).error)
        assert failed(side).code == wire.REJECT_AUTHENTICATION


def test_dialled_id_is_compared_before_anything_is_said() -> None:
    pair = tls_pair(i_certified=5)
    assert isinstance(failed(pair.i).error, IdentityMismatch)
    said = pair.i.data_to_send()
    assert (said[0], said[4:6]) == (wire.KIND_REJECT, b"\x00\x02")  # and no HELLO in front of it


def test_levels_do_not_mix() -> None:
    for left, right in permutations((identity(1), identity(1, [SECRET]), tls_identity(1)), 2):
        pair = Pair(initiator(left), responder(replace(right, node_id=2)))
        for side in (pair.i, pair.r):
            if side.identity.tls:
                side.certify(2 if side is pair.i else 1)
        pair.run()
        assert isinstance(failed(pair.i).error, AuthenticationError)
        assert isinstance(failed(pair.r).error, AuthenticationError)


@pytest.mark.parametrize("limit", ["00000fff", "01000000", "ffffffff"])
def test_hello_with_a_frame_limit_out_of_range_fails(limit: str) -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I[:33] + bytes.fromhex(limit) + HELLO_I[37:])
    assert isinstance(failed(r).error, UnsupportedProtocol)


def test_second_hello_fails() -> None:
    r = responder(VECTOR_R)
    r.receive_data(HELLO_I + HELLO_I)
    assert isinstance(failed(r).error, UnsupportedProtocol)


def test_bytes_while_the_responder_decides_fail() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    pair.r.receive_data(AUTH_I)
    assert isinstance(failed(pair.r).error, UnsupportedProtocol)


def test_frame_of_256_bytes_is_taken() -> None:
    r = responder(VECTOR_R)
    r.receive_data(bytes.fromhex("08000100") + HELLO_I[4:] + bytes(256 - 69))
    assert r.state == "WAIT_AUTH"


def test_more_than_512_bytes_in_all_fail() -> None:
    # 260 bytes of HELLO; then frames that are never complete, 512 bytes in all and one more.
    r = responder(VECTOR_R)
    r.receive_data(bytes.fromhex("08000100") + HELLO_I[4:] + bytes(256 - 69))
    r.receive_data(bytes.fromhex("09000100") + bytes(248))
    assert r.result is None
    r.receive_data(b"x")
    assert isinstance(failed(r).error, UnsupportedProtocol)


def test_initiator_in_need_of_a_decision_takes_a_reject_and_nothing_else() -> None:
    rejected, wrong = vector_initiator(), vector_initiator()
    for i in (rejected, wrong):
        i.receive_data(HELLO_R)
    rejected.receive_data(bytes.fromhex("0b000002 0008"))
    wrong.receive_data(AUTH_R)
    assert isinstance(failed(rejected).error, TooManyConnections)
    assert isinstance(failed(wrong).error, UnsupportedProtocol)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"\x10\x00\x00\x00", UnsupportedProtocol),  # a PING before READY
        (b"\x0a\x00\x00\x00\x0a\x00\x00\x00", UnsupportedProtocol),  # two frames in one record
        (b"\x0a\x00\x00", UnsupportedProtocol),  # no whole frame
        (b"\x0b\x00\x00\x03\x00\x06!", AlreadyConnected),
    ],
)
def test_initiator_waiting_for_ready_takes_ready_or_reject_alone_in_a_record(
    frame: bytes, error: type[OutgoingConnectionError]
) -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    pair.r.answer()
    pair.step()
    records = pair.r._records
    assert records is not None
    pair.i.receive_data(records.seal(frame))
    assert isinstance(failed(pair.i).error, error)


def test_initiator_refuses_a_long_record_before_ready_on_its_length() -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R)
    i.proceed()
    i.receive_data(AUTH_R)
    i.receive_data(bytes.fromhex("000105"))
    assert isinstance(failed(i).error, UnsupportedProtocol)


def test_ready_with_a_body_is_taken() -> None:
    pair = open_pair()
    pair.step()
    pair.i.proceed()
    pair.i.receive_data(EMPTY_AUTH + bytes.fromhex("0a000002 ffff"))
    accepted(pair.i)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (wire.REJECT_BEHAVIOR, RemoteRejected),
        (wire.REJECT_IDENTITY_MISMATCH, IdentityMismatch),
        (wire.REJECT_VERSION, UnsupportedProtocol),
        (wire.REJECT_SELF_CONNECT, SelfConnect),
        (wire.REJECT_DUPLICATE_NODE_ID, DuplicateNodeId),
        (wire.REJECT_ALREADY_CONNECTED, AlreadyConnected),
        (wire.REJECT_AUTHENTICATION, AuthenticationError),
        (wire.REJECT_TOO_MANY_CONNECTIONS, TooManyConnections),
    ],
)
def test_reject_code_becomes_its_error_at_the_initiator(
    code: int, error: type[OutgoingConnectionError]
) -> None:
    pair = auth_pair()
    pair.step()
    pair.r.reject(code, "why not")
    pair.step()
    assert type(failed(pair.i).error) is error
    assert "why not" in str(failed(pair.i).error)
    assert failed(pair.i).code == failed(pair.r).code == code


def test_reject_with_an_unknown_code_is_a_remote_rejection() -> None:
    i = vector_initiator()
    i.receive_data(bytes.fromhex("0b000005 ffff 6e6577"))
    result = failed(i)
    assert isinstance(result.error, RemoteRejected)
    assert (result.error.reason, result.code) == ("new", 0xFFFF)


@pytest.mark.parametrize("secrets", [[], [SECRET]], ids=["open", "auth"])
@pytest.mark.parametrize("answered", [False, True])
def test_reject_before_and_after_the_answer_reaches_the_initiator(
    secrets: list[bytes], answered: bool
) -> None:
    pair = Pair(initiator(identity(1, secrets)), responder(identity(2, secrets)))
    pair.step()
    pair.i.proceed()
    pair.step()
    if answered:
        pair.r.answer()
    pair.r.reject(wire.REJECT_BEHAVIOR, "full")
    pair.step()
    error = failed(pair.i).error
    assert isinstance(error, RemoteRejected)
    assert error.reason == "full"
    assert isinstance(failed(pair.r).error, BehaviorRejected)


def test_reject_after_the_answer_travels_in_a_record() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    pair.r.answer()
    pair.r.data_to_send()
    pair.r.reject(wire.REJECT_BEHAVIOR, "full")
    assert pair.r.data_to_send().startswith(bytes.fromhex("00000a 0b000006 0001 66756c6c"))


def test_reject_text_is_cut_at_200_bytes_between_characters() -> None:
    r = responder(VECTOR_R)
    r.reject(wire.REJECT_BEHAVIOR, "x" * 199 + "\u00e4")
    assert r.data_to_send() == b"\x0b\x00\x00\xc9\x00\x01" + b"x" * 199


def test_reject_text_that_cannot_be_encoded_still_travels() -> None:
    r = responder(VECTOR_R)
    r.reject(wire.REJECT_BEHAVIOR, "a\ud800b")
    assert r.data_to_send() == b"\x0b\x00\x00\x05\x00\x01a?b"


def test_reject_text_from_a_stranger_is_made_printable() -> None:
    i = vector_initiator()
    i.receive_data(bytes.fromhex("0b000007 0001 1b5b41 ff0a"))
    error = failed(i).error
    assert isinstance(error, RemoteRejected)
    assert error.reason == "?[A\ufffd?"


def test_reject_twice_says_it_once() -> None:
    r = responder(VECTOR_R)
    r.reject(wire.REJECT_BEHAVIOR, "one")
    r.reject(wire.REJECT_BEHAVIOR, "two")
    assert r.data_to_send() == bytes.fromhex("0b000005 0001 6f6e65")


# -- the driver's words --------------------------------------------------------------------------


def test_abort_of_the_initiator_tells_the_responder() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.abort(AlreadyConnected("there is a link"))
    pair.step()
    error = failed(pair.r).error
    assert isinstance(error, AlreadyConnected)
    assert error.detail == "there is a link"


def test_abort_by_a_behavior_tells_its_words() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.abort(BehaviorRejected("not now"))
    pair.step()
    error = failed(pair.r).error
    assert isinstance(error, RemoteRejected)
    assert error.reason == "not now"


def test_abort_while_the_responder_decides_reaches_it() -> None:
    pair = auth_pair()
    pair.step()
    pair.i.proceed()
    pair.step()
    pair.i.abort(AlreadyConnected())
    pair.step()
    assert isinstance(failed(pair.r).error, AlreadyConnected)


@pytest.mark.parametrize("name", ["i", "r"])
def test_abort_for_silence_sends_nothing(name: str) -> None:
    side = getattr(auth_pair(), name)
    side.data_to_send()
    side.abort(HandshakeTimeout())
    assert isinstance(failed(side).error, HandshakeTimeout)
    assert side.data_to_send() == b""


def test_abort_of_the_initiator_behind_the_answer_sends_nothing() -> None:
    i = vector_initiator()
    i.receive_data(HELLO_R)
    i.proceed()
    i.receive_data(AUTH_R)
    i.data_to_send()
    i.abort(AlreadyConnected())
    assert i.data_to_send() == b""


def test_abort_after_the_end_changes_nothing() -> None:
    pair = auth_pair()
    pair.run()
    pair.i.abort(HandshakeTimeout())
    accepted(pair.i)


def test_eof_is_nobody_there() -> None:
    i = vector_initiator()
    i.receive_eof()
    assert isinstance(failed(i).error, DestinationNotFound)


def test_data_after_a_failure_is_ignored() -> None:
    i = vector_initiator()
    i.receive_eof()
    i.receive_data(HELLO_R)
    assert isinstance(failed(i).error, DestinationNotFound)


def test_data_after_the_end_is_the_link_s_affair() -> None:
    pair = auth_pair()
    pair.run()
    with pytest.raises(LocalError):
        pair.i.receive_data(b"x")


@pytest.mark.parametrize("call", ["answer", "accept"])
def test_responder_told_out_of_turn_raises(call: str) -> None:
    r: Responder = responder(VECTOR_R)
    with pytest.raises(LocalError, match="WAIT_HELLO"):
        getattr(r, call)()


def test_initiator_told_out_of_turn_raises() -> None:
    with pytest.raises(LocalError, match="HELLO_SENT"):
        vector_initiator().proceed()
