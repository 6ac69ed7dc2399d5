"""NodeConfig: every limit is checked once, in words, and no secret ever shows."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import pytest

from netcore import LocalError, MemoryNetwork, MemoryTransport, Node, NodeConfig, TlsFiles, wire
from netcore._backend import BackendName
from netcore.config import _RANGES, SEND_QUEUE_POLICIES
from netcore.keys import KeyRing
from support.handshake_pair import identity

SECRET = "correct horse battery staple"


def test_defaults_are_valid_and_as_documented() -> None:
    config = NodeConfig(node_id=1)
    assert (config.tick_ms, config.max_frame_bytes) == (1_000, 1 << 20)
    assert (config.handshake_timeout_ms, config.dead_ms) == (4_500, 10_000)
    assert (config.secret, config.secrets, config.insecure) == (None, (), False)


def test_every_number_has_a_range() -> None:
    numbers = {
        f.name
        for f in dataclasses.fields(NodeConfig)
        if f.name
        not in ("node_id", "secret", "insecure", "send_queue_policy", "tls", "min_security")
    }
    assert numbers == set(_RANGES)


@pytest.mark.parametrize("name", _RANGES)
def test_number_at_both_ends_of_its_range_is_taken(name: str) -> None:
    low, high = _RANGES[name]
    others = {"write_low_bytes": 0} if name == "write_high_bytes" else {}
    if name == "write_low_bytes":
        others, high = {"write_high_bytes": 1 << 30}, (1 << 30) - 1
    for value in (low, high):
        config = NodeConfig(node_id=1, **{name: value}, **others)  # type: ignore[arg-type]
        assert getattr(config, name) == value


@pytest.mark.parametrize("name", _RANGES)
@pytest.mark.parametrize("kind", ["below", "above", "bool", "float", "text", "none"])
def test_number_out_of_its_range_is_refused_by_name(name: str, kind: str) -> None:
    low, high = _RANGES[name]
    value = {
        "below": low - 1, "above": high + 1, "bool": True, "float": float(low), "text": "1",
        "none": None,
    }[kind]  # fmt: skip
    with pytest.raises(LocalError, match=f"^{name} must be an int in {low}..{high}, not "):
        NodeConfig(node_id=1, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("low", [4_096, 5_000])
def test_low_watermark_must_be_below_the_high_one(low: int) -> None:
    with pytest.raises(LocalError, match=r"write_low_bytes \(\d+\) must be below write_high_bytes"):
        NodeConfig(node_id=1, write_high_bytes=4_096, write_low_bytes=low)


@pytest.mark.parametrize("node_id", [-1, 0xFFFF_FFFF, True, "1", None, 1.0])
def test_node_id_out_of_range_is_refused(node_id: Any) -> None:
    with pytest.raises(LocalError, match="a node id is an int in"):
        NodeConfig(node_id=node_id)


@pytest.mark.parametrize("node_id", [0, 0xFFFF_FFFE])
def test_node_id_at_the_ends_of_its_range_is_taken(node_id: int) -> None:
    assert NodeConfig(node_id=node_id).node_id == node_id


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeConfig(node_id=1).tick_ms = 5  # type: ignore[misc]


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="tik_ms"):
        Node(1, tik_ms=5)


# -- secrets -------------------------------------------------------------------------------------


def test_secret_may_be_text_bytes_or_a_list() -> None:
    for secret in (
        SECRET,
        SECRET.encode(),
        [SECRET],
        (SECRET.encode(),),
        bytearray(16),
        [b"x" * 16],
    ):
        config = NodeConfig(node_id=1, secret=secret)  # type: ignore[arg-type]
        assert all(isinstance(item, bytes) for item in config.secrets)
        assert len(config.secrets) == 1


def test_secrets_keep_their_order() -> None:
    assert NodeConfig(node_id=1, secret=["a" * 16, b"b" * 16]).secrets == (b"a" * 16, b"b" * 16)


@pytest.mark.parametrize("secret", ["short", b"x" * 15, ["x" * 16, "y"], b"", ""])
def test_short_secret_is_refused_without_showing_it(secret: Any) -> None:
    with pytest.raises(LocalError, match="at least 16 bytes") as caught:
        NodeConfig(node_id=1, secret=secret)
    assert "short" not in str(caught.value)


def test_empty_list_of_secrets_is_refused() -> None:
    with pytest.raises(LocalError, match="empty list"):
        NodeConfig(node_id=1, secret=[])


@pytest.mark.parametrize("secret", [32, [32], [None], 1.5, {"a": 1}])
def test_secret_of_another_type_is_refused(secret: Any) -> None:
    # bytes(32) is 32 zeros: a number must never become a secret.
    with pytest.raises(LocalError, match="a secret is bytes or str, not"):
        NodeConfig(node_id=1, secret=secret)


def test_secret_is_in_no_repr(backend: BackendName) -> None:
    config = NodeConfig(node_id=1, secret=SECRET)
    node = Node(config, backend=backend)
    things = (
        config,
        node,
        node.stats(),
        copy.copy(config),
        dataclasses.replace(config, tick_ms=5),
        KeyRing(config.secrets),
        node._host.identity,
        identity(1, config.secrets),
    )
    node.close()
    for thing in things:
        for text in (repr(thing), str(thing)):
            assert SECRET not in text
            assert SECRET.encode().hex() not in text


def test_secret_is_in_no_log(backend: BackendName, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    network = MemoryNetwork()
    nodes = [
        Node(
            NodeConfig(node_id=number, secret=secret),
            backend=backend,
            transports=[MemoryTransport(network)],
            clock_ms=lambda: 0,
        )
        for number, secret in enumerate((SECRET, SECRET, SECRET + " wrong"), 1)
    ]
    addr = nodes[0].listen("/memory/a")
    nodes[1].connect(addr)
    nodes[2].connect(addr)
    for _ in range(100):
        for node in nodes:
            node.poll(0)
    assert nodes[1].connections
    for node in nodes:
        node.close()
    assert caplog.records
    assert SECRET not in caplog.text


def test_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETCORE_SECRET", SECRET)
    with Node(1) as node:
        assert node.config.secrets == (SECRET.encode(),)
    with Node(1, secret=b"another secret of mine") as node:
        assert node.config.secrets == (b"another secret of mine",)


def test_empty_secret_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETCORE_SECRET", "")
    with Node(1) as node:
        assert node.config.secrets == ()


# -- how a node takes its settings ---------------------------------------------------------------


def test_node_takes_a_whole_config() -> None:
    config = NodeConfig(node_id=7, tick_ms=50)
    with Node(config) as node:
        assert node.config is config
        assert node.node_id == 7


def test_node_takes_settings_by_name() -> None:
    with Node(7, tick_ms=50, secret=SECRET) as node:
        assert (node.config.tick_ms, node.config.secrets) == (50, (SECRET.encode(),))


def test_node_refuses_a_config_and_settings_at_once() -> None:
    with pytest.raises(LocalError, match="not both"):
        Node(NodeConfig(node_id=1), tick_ms=5)
    with pytest.raises(LocalError, match="not both"):
        Node(NodeConfig(node_id=1), secret=SECRET)


def test_frame_limit_range_is_that_of_the_protocol() -> None:
    assert _RANGES["max_frame_bytes"] == (wire.MIN_MAX_FRAME_BYTES, wire.MAX_FRAME_BYTES)


def test_send_queue_policy_is_one_of_four() -> None:
    for policy in SEND_QUEUE_POLICIES:
        assert NodeConfig(node_id=1, send_queue_policy=policy).send_queue_policy == policy
    wrong: Any = "block"
    with pytest.raises(LocalError, match=r"one of error, drop_newest, drop_oldest, close, not 'bl"):
        NodeConfig(node_id=1, send_queue_policy=wrong)


def test_bound_of_all_queues_is_never_below_that_of_one() -> None:
    config = NodeConfig(node_id=1, max_queued_bytes=1, write_high_bytes=1 << 30)
    assert config.total_queue_bytes == (1 << 30) + config.max_frame_bytes
    assert NodeConfig(node_id=1).total_queue_bytes == 256 << 20
    assert NodeConfig(node_id=1, max_queued_bytes=0).total_queue_bytes == 0


# -- security ------------------------------------------------------------------------------------

FILES = TlsFiles("ca", "cert", "key")


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, "open"),
        ({"secret": SECRET}, "auth"),
        ({"tls": FILES}, "tls"),
        ({"tls": FILES, "secret": SECRET}, "tls"),
    ],
)
def test_settings_give_one_level_and_nothing_below_what_is_wanted(
    given: dict[str, Any], level: str
) -> None:
    for wanted in ("open", "auth", "tls"):
        config = NodeConfig(node_id=1, min_security=wanted, **given)
        assert config.security == level
        if ("open", "auth", "tls").index(level) < ("open", "auth", "tls").index(wanted):
            with pytest.raises(LocalError, match=f"min_security is '{wanted}'.*'{level}'"):
                config.require_security()
        else:
            config.require_security()


@pytest.mark.parametrize("value", ["TLS", "", None, 1, b"tls", "none"])
def test_min_security_that_is_no_level_raises(value: Any) -> None:
    with pytest.raises(LocalError, match="min_security is one of open, auth, tls"):
        NodeConfig(node_id=1, min_security=value)


@pytest.mark.parametrize("value", ["certs", 1, True, ("a", "b", "c"), [FILES], (FILES, FILES)])
def test_tls_of_another_type_raises(value: Any) -> None:
    with pytest.raises(LocalError, match="tls is TlsFiles"):
        NodeConfig(node_id=1, tls=value)
