"""KeyRing and Proofs: the shared secrets of a node, and what the handshake makes of them.

From each secret come ``K = HKDF-SHA256(secret, info="netcore v1")``, 32 bytes, and a key id of 4
bytes, which travels in clear, from the same function under another info. Several secrets mean a
rotation: the first one is used for dialling, any of them is accepted.

hashlib and hmac are imported where they are used: they cost ``import netcore`` some milliseconds,
and a node without a secret never needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import wire
from ._typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = ["NO_KEY_ID", "KeyRing", "Proofs", "hkdf_sha256"]

#: What a node without a secret sends in the place of a key id.
NO_KEY_ID: Final = bytes(wire.KEY_ID_BYTES)


def hkdf_sha256(key_material: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 with an empty salt.

    Source: RFC 5869; one block of output is all that anybody here needs.
    """
    return _expand(_extract(key_material), info)


def _extract(key_material: bytes) -> bytes:
    """Return the pseudo-random key; worth keeping where several keys come from it."""
    from hmac import digest

    return digest(bytes(32), key_material, "sha256")


def _expand(pseudo_random_key: bytes, info: bytes) -> bytes:
    from hmac import digest

    return digest(pseudo_random_key, info + b"\x01", "sha256")


@final
class KeyRing:
    """The keys of a node, by key id. Empty at level *open*. Its repr shows no secret.

    Attributes:
        first_id: Key id of the key to dial with; ``NO_KEY_ID`` when there is none.
    """

    __slots__ = ("_keys", "first_id")

    def __init__(self, secrets: Sequence[bytes] = ()) -> None:
        self._keys: dict[bytes, bytes] = {}
        for secret in secrets:
            key_id = hkdf_sha256(secret, wire.HKDF_INFO_KEY_ID)[: wire.KEY_ID_BYTES]
            self._keys.setdefault(key_id, hkdf_sha256(secret, wire.HKDF_INFO_KEY))
        self.first_id: bytes = next(iter(self._keys), NO_KEY_ID)

    def find(self, key_id: bytes) -> bytes | None:
        """Return the key with this id, or None. Key ids are public: the time it takes may tell."""
        return self._keys.get(key_id)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self)}>"


@final
class Proofs:
    """What the two sides of one conversation must send, and the record keys behind it.

    Attributes:
        initiator: The proof of the dialling side; empty at level *open*.
        responder: The proof of the other one.
    """

    __slots__ = ("_hash", "_key", "initiator", "responder")

    def __init__(self, key: bytes | None, hello_i: bytes, hello_r: bytes) -> None:
        """Compute both proofs.

        Args:
            key: One from a KeyRing; None at level *open*.
            hello_i: The HELLO frame of the initiator as it travelled, header included.
            hello_r: That of the responder.
        """
        self._key = key
        self._hash = self.initiator = self.responder = b""
        if key is not None:
            from hashlib import sha256
            from hmac import digest

            self._hash = sha256(hello_i + hello_r).digest()
            self.initiator = digest(key, b"i" + self._hash, "sha256")
            self.responder = digest(key, b"r" + self._hash + self.initiator, "sha256")

    def is_initiator(self, proof: bytes) -> bool:
        """Return whether ``proof`` is the initiator's, in time that does not depend on it."""
        return _is_equal(proof, self.initiator)

    def is_responder(self, proof: bytes) -> bool:
        """Return whether ``proof`` is the responder's, in time that does not depend on it."""
        return _is_equal(proof, self.responder)

    def records(self, kind: type[kernels.Records], *, initiator: bool) -> kernels.Records | None:
        """Return the record layer of one side, None at level *open*.

        There is a key for each direction, named after who sends with it.
        """
        if self._key is None:
            return None
        pseudo_random_key = _extract(self._key)
        key_i = _expand(pseudo_random_key, self._hash + b"i")
        key_r = _expand(pseudo_random_key, self._hash + b"r")
        return kind(key_i, key_r) if initiator else kind(key_r, key_i)


def _is_equal(proof: bytes, expected: bytes) -> bool:
    if not expected:
        return not proof  # level open: nothing to hide, and nothing to import
    from hmac import compare_digest

    return compare_digest(proof, expected)
