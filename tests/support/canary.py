"""The secrets of the tests: no text that netcore makes may contain one of them, or a key."""

from __future__ import annotations

from collections.abc import Iterator

from netcore.keys import KeyRing
from support import handshake_pair, nodes

_SECRETS = (
    nodes.SECRET,
    nodes.OTHER_SECRET,
    handshake_pair.SECRET,
    handshake_pair.OTHER_SECRET,
)


def _forms(secret: bytes) -> Iterator[str]:
    for data in (secret, *KeyRing([secret])._keys.values()):
        yield data.hex()
        yield repr(data)[2:-1]


#: Secrets, and the keys made of them, as text, as bytes are shown, and in hexadecimal.
CANARIES = tuple(dict.fromkeys(form for secret in _SECRETS for form in _forms(secret)))


def find_canary(text: str) -> str | None:
    """Return the first canary in a text, None when there is none."""
    return next((canary for canary in CANARIES if canary in text), None)
