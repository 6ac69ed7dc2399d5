"""TlsChannel over a channel that a test holds in its hand."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import AuthenticationError, wire
from netcore.transport.base import ChannelTarget
from netcore.transport.secured import MAX_UNSENT_BYTES, SEAL_BYTES, TlsChannel
from netcore.transport.tls import TlsSession, TlsSetup, make_tls, node_named_by
from support.certs import contexts, files

TIMEOUT_MS = 700


class Below:
    """The channel below: takes as many bytes as it is told to."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.taken = b""
        self.events: list[str] = []
        self.target: ChannelTarget | None = None
        self.broken = False

    def set_target(self, target: ChannelTarget | None) -> None:
        self.target = target

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if self.broken:
            raise ConnectionResetError(104, "reset")
        taken = min(self.room, len(data))
        self.room -= taken
        self.taken += bytes(data[:taken])
        return taken

    def shutdown(self) -> None:
        self.events.append("shutdown")

    def close(self) -> None:
        self.events.append("close")


class Link:
    """The connection above: hears and remembers."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.events: list[str] = []
        self.failures: list[tuple[int, str]] = []
        self.raises: list[BaseException] = []

    def receive_data(self, data: bytes) -> None:
        self.data.append(data)
        if self.raises:
            raise self.raises.pop()

    def receive_eof(self) -> None:
        self.events.append("eof")

    def channel_writable(self) -> None:
        self.events.append("writable")

    def fail(self, code: int, text: str) -> None:
        self.failures.append((code, text))


class Stage:
    """A channel between the two, on simulated time; ``far`` is what it talks to."""

    def __init__(self, kernels: ModuleType) -> None:
        self.now_ms = 1_000
        self.errors: list[BaseException] = []
        self.loop: Any = kernels.Loop(
            clock=lambda: self.now_ms, on_error=lambda where, error: self.errors.append(error)
        )
        self.setup: TlsSetup = make_tls(files(1), 1, TIMEOUT_MS)
        near = self.setup.session(outgoing=False)
        self.far: TlsSession = self.setup.session(outgoing=True)
        shake(self.far, near)
        self.below, self.link = Below(), Link()
        self.channel = TlsChannel(self.loop, self.setup, self.below, near, b"")
        self.channel.set_target(self.link)
        self.turn()

    def turn(self, passes_ms: int = 0) -> None:
        self.now_ms += passes_ms
        self.loop.run_once(0)

    def sealed(self, *payloads: bytes) -> bytes:
        """Return what the other side would send."""
        for payload in payloads:
            assert self.far.write(payload) == len(payload)
        return self.far.data_to_send()

    def opened(self) -> bytes:
        """Return what the other side reads in all that has left."""
        self.far.receive_data(self.below.taken)
        self.below.taken = b""
        found = b""
        while data := self.far.read():
            found += data
        return found

    def make_room(self, count: int = 1 << 30) -> None:
        self.below.room = count
        self.channel.channel_writable()


def shake(left: TlsSession, right: TlsSession) -> None:
    """Do the handshake of two sessions."""
    left.do_handshake()
    right.receive_data(left.data_to_send())
    right.do_handshake()
    left.receive_data(right.data_to_send())
    assert left.do_handshake()
    right.receive_data(left.data_to_send())
    assert right.do_handshake()


@pytest.fixture
def stage(kernels: ModuleType) -> Iterator[Stage]:
    stage = Stage(kernels)
    yield stage
    stage.loop.close()
    assert stage.errors == []


# -- sending -------------------------------------------------------------------------------------


def test_write_seals_and_sends_at_once(stage: Stage) -> None:
    assert stage.channel.write(b"plain text") == 10
    assert b"plain text" not in stage.below.taken
    assert stage.opened() == b"plain text"
    assert stage.channel.write(b"") == 0


def test_write_takes_no_more_than_one_portion_beyond_what_has_left(stage: Stage) -> None:
    data = bytes(range(256)) * 4_096  # 1 MiB
    stage.below.room = 1_000
    assert stage.channel.write(data) == SEAL_BYTES
    assert stage.channel.write(data[SEAL_BYTES:]) == 0
    assert len(stage.below.taken) == 1_000
    stage.make_room(10_000)
    assert stage.link.events == []  # there is still something sealed
    stage.make_room()
    assert stage.link.events == ["writable"]
    assert stage.channel.write(data[SEAL_BYTES:]) == len(data) - SEAL_BYTES
    assert stage.opened() == data


def test_stream_below_that_takes_one_byte_at_a_time_loses_nothing(stage: Stage) -> None:
    stage.below.room = 0
    assert stage.channel.write(b"x" * 500) == 500
    for _ in range(600):
        stage.make_room(1)
    assert stage.opened() == b"x" * 500


def test_write_that_wants_to_read_first_is_offered_again_as_it_was(stage: Stage) -> None:
    import ssl

    session = stage.channel._session

    class Reluctant:
        def __init__(self, real: Any) -> None:
            self.real, self.refusals = real, 2
            self.offered: list[bytes] = []

        def write(self, data: Any) -> int:
            self.offered.append(bytes(data))
            if self.refusals:
                self.refusals -= 1
                raise ssl.SSLWantReadError
            return int(self.real.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    reluctant = session._ssl = Reluctant(session._ssl)  # type: ignore[assignment]
    assert stage.channel.write(b"first") == 5  # taken, and kept
    assert stage.channel.write(b"second") == 0  # refused again
    assert stage.channel.write(b"second") == 6
    assert reluctant.offered == [b"first", b"first", b"first", b"second"]
    assert stage.opened() == b"firstsecond"


def test_stream_below_that_breaks_is_an_os_error(stage: Stage) -> None:
    stage.below.broken = True
    with pytest.raises(ConnectionResetError):
        stage.channel.write(b"x")


# -- receiving -----------------------------------------------------------------------------------


def test_all_records_of_one_segment_are_delivered_at_once(stage: Stage) -> None:
    stage.channel.receive_data(stage.sealed(b"1", b"22", b"3" * 40_000))
    assert b"".join(stage.link.data) == b"1" + b"22" + b"3" * 40_000


def test_one_byte_per_segment_is_enough(stage: Stage) -> None:
    for byte in stage.sealed(b"slow", b"ly"):
        stage.channel.receive_data(bytes([byte]))
    assert stage.link.data == [b"slow", b"ly"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")], ids=["ctrl-c", "bug"])
def test_exception_out_of_the_link_leaves_the_rest_to_the_next_turn(
    stage: Stage, error: BaseException
) -> None:
    stage.link.raises = [error]
    with pytest.raises(type(error)):
        stage.channel.receive_data(stage.sealed(b"first", b"second", b"third"))
    assert stage.link.data == [b"first"]
    stage.turn()
    assert stage.link.data == [b"first", b"second", b"third"]


def test_what_waits_in_tls_when_the_link_begins_is_delivered(kernels: ModuleType) -> None:
    stage = Stage(kernels)
    stage.channel.set_target(None)
    stage.channel._session.receive_data(stage.sealed(b"early"))
    stage.channel.set_target(stage.link)
    assert stage.link.data == []  # not inside the call
    stage.turn()
    assert stage.link.data == [b"early"]
    stage.loop.close()


def test_bent_record_fails_the_link_and_is_counted(stage: Stage) -> None:
    data = bytearray(stage.sealed(b"good", b"bad"))
    data[-1] ^= 0x80
    stage.channel.receive_data(bytes(data))
    assert stage.link.data == [b"good"]
    ((code, text),) = stage.link.failures
    assert code == wire.CLOSE_PROTOCOL_ERROR
    assert "bad record mac" in text
    assert stage.setup.links_broken == 1
    with pytest.raises(BrokenPipeError, match="bad record mac"):
        stage.channel.write(b"more")
    stage.channel.receive_data(stage.sealed(b"behind"))
    assert stage.link.data == [b"good"]
    stage.channel.close()
    with pytest.raises(AuthenticationError, match="the other end refuses: bad record mac"):
        stage.opened()  # the alert has left
    assert stage.below.events == ["close"]


def test_answers_that_nobody_takes_end_the_link(stage: Stage) -> None:
    # TLS answers by itself to what asks for it (key updates); here as if it had.
    stage.below.room = 0
    stage.channel._session._out.write(bytes(MAX_UNSENT_BYTES + 1))
    stage.channel.receive_data(stage.sealed(b"x"))
    assert "asks and never listens" in stage.link.failures[0][1]


# -- ending --------------------------------------------------------------------------------------


def test_shutdown_sends_close_notify_behind_everything(stage: Stage) -> None:
    stage.below.room = 10
    stage.channel.write(b"last words")
    stage.channel.shutdown()
    assert stage.below.events == []
    stage.make_room(20)
    assert stage.below.events == []
    stage.make_room()
    assert stage.below.events == ["shutdown"]
    assert stage.opened() == b"last words"
    assert stage.far.read() == b""  # close_notify
    with pytest.raises(BrokenPipeError):
        stage.channel.write(b"more")


def test_shutdown_still_hears_the_other_side(stage: Stage) -> None:
    half = stage.sealed(b"cut in two")
    stage.channel.receive_data(half[:7])
    stage.channel.shutdown()
    stage.channel.receive_data(half[7:] + stage.sealed(b"and more"))
    assert stage.link.data == [b"cut in two", b"and more"]
    assert stage.link.events == []


def test_shutdown_waits_until_what_came_is_read(stage: Stage) -> None:
    # close_notify reads what it meets and loses it: here two records wait behind an exception.
    stage.link.raises = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        stage.channel.receive_data(stage.sealed(b"first", b"second", b"third"))
    stage.channel.shutdown()
    assert stage.below.events == []
    stage.turn()
    assert stage.link.data == [b"first", b"second", b"third"]
    assert stage.below.events == ["shutdown"]


def test_close_notify_is_the_end_whatever_comes_behind(stage: Stage) -> None:
    stage.far.write(b"before")
    stage.far.shutdown()
    stage.channel.receive_data(stage.far.data_to_send() + b"garbage behind")
    stage.channel.receive_data(b"more garbage")
    assert (stage.link.data, stage.link.events) == ([b"before"], ["eof"])
    stage.channel.receive_eof()
    assert stage.link.events == ["eof"]
    stage.channel.shutdown()  # is not held up by it
    assert stage.below.events == ["shutdown"]
    assert stage.link.failures == []


def test_end_of_the_other_side_is_told_when_ours_has_left(stage: Stage) -> None:
    # A link that has seen both ends closes its channel: what is sealed would be lost.
    stage.below.room = 5
    stage.channel.write(b"not gone yet")
    stage.channel.receive_eof()
    assert stage.link.events == []
    stage.make_room()
    assert stage.link.events == ["eof"]
    assert stage.opened() == b"not gone yet"


def test_end_of_the_other_side_does_not_wait_for_ever(stage: Stage) -> None:
    stage.below.room = 5
    stage.channel.write(b"never goes")
    stage.channel.receive_eof()
    stage.turn(TIMEOUT_MS - 1)
    assert stage.link.events == []
    stage.turn(1)
    assert stage.link.events == ["eof"]


def test_close_in_the_middle_of_a_delivery_ends_it(stage: Stage) -> None:
    class Closer(Link):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            stage.channel.close()

    link = Closer()
    stage.channel.set_target(link)
    stage.channel.receive_data(stage.sealed(b"first", b"second"))
    stage.turn()
    stage.channel.close()
    assert link.data == [b"first"]
    assert link.events == []
    assert stage.below.events == ["close"]
    assert stage.loop.timers == 0


# -- names ---------------------------------------------------------------------------------------


def name(*uris: str) -> dict[str, Any]:
    return {"subjectAltName": (("DNS", "netcore:node/9"), *(("URI", uri) for uri in uris))}


@pytest.mark.parametrize("node_id", [0, 1, 4_294_967_294])
def test_certificate_names_a_node(node_id: int) -> None:
    assert node_named_by(name("https://example/", f"netcore:node/{node_id}")) == node_id


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        name(),
        name("netcore:node"),
        name("NETCORE:node/1"),
        name("netcore:node/"),
        name("netcore:node/-1"),
        name("netcore:node/ 1"),
        name("netcore:node/1 "),
        name("netcore:node/1\x00"),
        name("netcore:node/01"),
        name("netcore:node/1.0"),
        name("netcore:node/0x1"),
        name("netcore:node/1_0"),
        name("netcore:node/\u0661"),  # a digit, and not one of ours
        name("netcore:node/4294967295"),
        name("netcore:node/99999999999"),
        name("netcore:node/1", "netcore:node/1"),
    ],
)
def test_certificate_that_names_no_single_node_is_refused(certificate: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError, match="the certificate names"):
        node_named_by(certificate)


def test_version_is_looked_at_after_the_handshake_too() -> None:
    import ssl

    listening, dialling = contexts(files(1))
    setup = TlsSetup(listening, dialling, TIMEOUT_MS)
    for changed in (listening, dialling):  # behind our back
        changed.minimum_version = ssl.TLSVersion.TLSv1_2
        changed.maximum_version = ssl.TLSVersion.TLSv1_2
    left, right = setup.session(outgoing=True), setup.session(outgoing=False)
    for _ in range(3):
        left.do_handshake()
        right.receive_data(left.data_to_send())
        right.do_handshake()
        left.receive_data(right.data_to_send())
    with pytest.raises(AuthenticationError, match=r"TLSv1\.2 instead of TLSv1\.3"):
        left.peer_node()
