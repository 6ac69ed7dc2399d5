"""Targets: both sides of a handshake, at both levels."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from types import ModuleType

from netcore import wire
from netcore.errors import OutgoingConnectionError
from netcore.handshake import Accepted, Failed, Identity, Initiator, Responder
from netcore.hello import Hello, Refusal, encode_reject
from netcore.keys import KeyRing

from .decoders import frame_bytes
from .target import Target, require

SECRET = b"only for the fuzzer's handshakes"
LOCAL, PEER = 0x01020304, 0x01020305


class HandshakeTarget(Target):
    """What the two of them share: a node to be talked to, and one that talks to it."""

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        keys = KeyRing([SECRET])
        self.open, self.auth = self._identity(LOCAL), self._identity(LOCAL, keys)
        self.open_peer, self.auth_peer = self._identity(PEER), self._identity(PEER, keys)

    def _identity(self, node_id: int, keys: KeyRing | None = None) -> Identity:
        return Identity(
            node_id=node_id,
            epoch=node_id << 32,
            records=self.kernels.Records,
            keys=KeyRing() if keys is None else keys,
        )

    @staticmethod
    def initiator(identity: Identity) -> Initiator:
        """Return a dialling side, always the same one."""
        nonce = b"\xaa" * wire.NONCE_BYTES
        return Initiator(identity, expected_node=None, link=7, parallel=False, nonce=nonce)

    @staticmethod
    def responder(identity: Identity) -> Responder:
        """Return a dialled side, always the same one."""
        return Responder(identity, nonce=b"\xbb" * wire.NONCE_BYTES, link=9)

    def feed(self, side: Initiator | Responder, data: bytes) -> None:
        """Give bytes to one side; whatever they are, it ends with a documented error or none."""
        side.receive_data(data)
        result = side.result
        if isinstance(result, Failed):
            require(isinstance(result.error, OutgoingConnectionError), repr(result.error))
            require(side.state == "DONE", side.state)
            str(result.error)
        said = side.data_to_send()
        require(len(said) <= wire.MAX_HANDSHAKE_BYTES, len(said), "bytes are sent to a stranger")


class HelloTarget(HandshakeTarget):
    """The body of the first frame, as either side takes it."""

    name = "hello"

    def seeds(self) -> Sequence[bytes]:
        hello = self.initiator(self.open_peer).data_to_send()[4:]
        auth = self.initiator(self.auth_peer).data_to_send()[4:]
        responder = self.responder(self.open_peer)
        responder.receive_data(self.initiator(self.open).data_to_send())
        return hello, auth, hello + b"of a later version", responder.data_to_send()[4:]

    def generate(self, rnd: random.Random) -> bytes:
        return Hello(
            levels=rnd.getrandbits(8) if rnd.random() < 0.3 else 1 + rnd.getrandbits(1),
            flags=rnd.getrandbits(16),
            node_id=rnd.choice((LOCAL, PEER, rnd.getrandbits(32))),
            expected_node=rnd.choice((LOCAL, wire.NO_NODE, rnd.getrandbits(32))),
            epoch=rnd.choice((LOCAL << 32, rnd.getrandbits(64))),
            link=rnd.getrandbits(32),
            max_frame_bytes=rnd.choice((4095, 4096, 1 << 20, (1 << 24) - 1, rnd.getrandbits(32))),
            nonce=rnd.randbytes(32),
            key_id=rnd.choice((self.auth.keys.first_id, rnd.randbytes(4))),
            version_min=rnd.choice((1, 1, rnd.getrandbits(8))),
            version_max=rnd.choice((1, 1, rnd.getrandbits(8))),
        ).encode()[4:]

    def run(self, data: bytes) -> bool:
        try:
            hello = Hello.decode(data)
        except Refusal as refusal:
            require(isinstance(refusal.error, OutgoingConnectionError), repr(refusal.error))
            is_good = False
        else:
            require(data.startswith(hello.encode()[4:]), "it encodes to", hello.encode().hex())
            is_good = True
        stream = frame_bytes(wire.KIND_HELLO, data[: wire.MAX_FRAME_BYTES])
        identity = self.auth if len(data) & 1 else self.open
        is_dialled = bool(sum(data[-2:]) & 1)  # one of the two: each costs as much as all the rest
        side = self.responder(identity) if is_dialled else self.initiator(identity)
        self.feed(side, stream)
        require(is_good or side.state == "DONE", "a bad HELLO was taken")
        return is_good


class AuthTarget(HandshakeTarget):
    """What follows the HELLOs; the first byte says at which side, 0 is the dialled one.

    Without the secret no input may get a link.
    """

    name = "auth"

    def __init__(self, kernels: ModuleType) -> None:
        super().__init__(kernels)
        self._hello = self.initiator(self.auth_peer).data_to_send()
        responder = self.responder(self.auth_peer)
        responder.receive_data(self.initiator(self.auth).data_to_send())
        self._answer = responder.data_to_send()
        self._dialled, self._dialling = self._ready_responder(), self._ready_initiator()
        self._genuine = self._auth_of_initiator(), self._end_of_responder()

    def seeds(self) -> Sequence[bytes]:
        return b"\0" + self._genuine[0], b"\1" + self._genuine[1]

    def _auth_of_initiator(self) -> bytes:
        peer, side = self.initiator(self.auth_peer), self.responder(self.auth)
        side.receive_data(peer.data_to_send())
        peer.receive_data(side.data_to_send())
        peer.proceed()
        return peer.data_to_send()

    def _end_of_responder(self) -> bytes:
        side, peer = self.initiator(self.auth), self.responder(self.auth_peer)
        peer.receive_data(side.data_to_send())
        side.receive_data(peer.data_to_send())
        side.proceed()
        peer.receive_data(side.data_to_send())
        peer.answer()
        peer.accept()
        return peer.data_to_send()

    def generate(self, rnd: random.Random) -> bytes:
        seed = self.some_seed(rnd)
        kind = rnd.choice((wire.KIND_HELLO, wire.KIND_AUTH, wire.KIND_READY, wire.KIND_REJECT))
        body = rnd.choice((b"", rnd.randbytes(32), encode_reject(rnd.getrandbits(4), "words")))
        frame = frame_bytes(kind, body)
        return rnd.choice((seed, seed[:1] + frame, seed[:1] + frame + seed[1:], seed + frame))

    def run(self, data: bytes) -> bool:
        is_dialled = not data or data[0] == 0
        side = copy.copy(self._dialled if is_dialled else self._dialling)
        self.feed(side, data[1:])
        accepted = isinstance(side.result, Accepted)
        is_good = side.state == "NEED_DECISION" if is_dialled else accepted
        genuine = self._genuine[not is_dialled]
        require(not is_good or data[1:].startswith(genuine), "a link without the secret")
        return is_good

    def _ready_responder(self) -> Responder:
        side = self.responder(self.auth)
        side.receive_data(self._hello)
        side.data_to_send()
        return side

    def _ready_initiator(self) -> Initiator:
        side = self.initiator(self.auth)
        side.data_to_send()
        side.receive_data(self._answer)
        side.proceed()
        side.data_to_send()
        return side
