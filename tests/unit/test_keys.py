from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from netcore.keys import NO_KEY_ID, KeyRing, Proofs, hkdf_sha256

SECRET = b"a secret of 23 bytes ok"
OTHER_SECRET = b"another one of 24 bytes."
# Both computed with a separate implementation of RFC 5869.
KEY = bytes.fromhex("8ef36d88 2036190f 21b72bcf bbbc8688 a8678936 a83a0ae3 e9dd1ffa 5c24d775")
KEY_ID = bytes.fromhex("b2730d26")


def test_hkdf_sha256_rfc_5869_test_case_3_gives_its_first_block() -> None:
    assert hkdf_sha256(b"\x0b" * 22, b"") == bytes.fromhex(
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    )


def test_key_ring_derives_key_and_key_id() -> None:
    ring = KeyRing([SECRET])
    assert ring.first_id == KEY_ID
    assert ring.find(KEY_ID) == KEY


def test_key_ring_of_a_rotation_dials_with_the_first_and_finds_all() -> None:
    ring = KeyRing([OTHER_SECRET, SECRET])
    assert len(ring) == 2
    assert ring.first_id == KeyRing([OTHER_SECRET]).first_id
    assert ring.find(KEY_ID) == KEY


def test_key_ring_with_a_secret_twice_counts_it_once() -> None:
    assert len(KeyRing([SECRET, SECRET])) == 1


def test_key_ring_without_secrets_is_false_and_finds_nothing() -> None:
    ring = KeyRing()
    assert not ring
    assert ring.first_id == NO_KEY_ID == bytes(4)
    assert ring.find(NO_KEY_ID) is None


def test_key_ring_repr_shows_nothing_secret() -> None:
    assert repr(KeyRing([SECRET])) == "<KeyRing of 1>"


def test_proofs_match_the_vector() -> None:
    proofs = Proofs(KEY, b"hello i", b"hello r")
    # HMAC-SHA256(K, "i" | SHA-256("hello ihello r")), computed with openssl.
    assert proofs.initiator.hex() == (
        "d67a96fb68024293f77bec3db7acff86939ef952a5853ffcba891f6a11150083"
    )
    assert proofs.responder.hex() == (
        "42bc579c677fbbd4599aaead4dcabe7a721aae7223e54ab260052358f312f4c3"
    )


def test_proofs_accept_the_right_one_only() -> None:
    proofs = Proofs(KEY, b"a", b"b")
    assert proofs.is_initiator(proofs.initiator)
    assert proofs.is_responder(proofs.responder)
    assert not proofs.is_initiator(proofs.responder)
    assert not proofs.is_responder(proofs.initiator)
    assert not proofs.is_initiator(b"")


def test_proofs_at_level_open_are_empty_and_give_no_records(kernels: ModuleType) -> None:
    proofs = Proofs(None, b"a", b"b")
    assert proofs.initiator == proofs.responder == b""
    assert proofs.is_initiator(b"")
    assert not proofs.is_initiator(b"x")
    assert proofs.records(kernels.Records, initiator=True) is None


def test_proofs_records_of_the_two_sides_fit_in_both_directions(kernels: ModuleType) -> None:
    proofs = Proofs(KEY, b"a", b"b")
    i = proofs.records(kernels.Records, initiator=True)
    r = proofs.records(kernels.Records, initiator=False)
    assert i is not None
    assert r is not None
    assert r.open(i.seal(b"to r")) == b"to r"
    assert i.open(r.seal(b"to i")) == b"to i"


@pytest.mark.parametrize("module", ["hashlib", "hmac"])
def test_import_of_the_handshake_leaves_hashing_alone(module: str) -> None:
    script = f"import sys, netcore.handshake; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
