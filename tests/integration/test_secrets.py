"""Wrong secrets in whole nodes, and that no secret is ever shown."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import conftest
import pytest

from netcore import AuthenticationError, Node, RouteRule
from netcore._backend import BackendName
from netcore.keys import KeyRing
from support.canary import CANARIES, find_canary
from support.nodes import OTHER_SECRET, SECRET
from support.virtual import Cluster, Spy, cluster_of

LATENCY_MS = 20


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend, latency_ms=LATENCY_MS) as made:
        yield made


def one_bit_off(secret: bytes) -> bytes:
    return secret[:-1] + bytes([secret[-1] ^ 1])


WRONG = {
    "another": OTHER_SECRET,
    "one bit off": one_bit_off(SECRET),
    "longer by a zero": SECRET + b"\0",
    "zeros": bytes(32),
    "none": None,
    "rotated out": b"the one of last year, 30 bytes",
}


def refuse(cluster: Cluster, node_id: int, secret: bytes | None) -> tuple[int, Spy, Node]:
    """Let a node with this secret dial node 2; return how long that took, its hooks, node 2."""
    two = cluster.add(2, Spy(), secret=[SECRET, THIRD])
    spy = Spy()
    stranger = cluster.add(node_id, spy, secret=secret)
    began = cluster.now_ms
    cluster.dial(stranger, two)
    cluster.until(lambda: spy.log.errors())
    took = cluster.now_ms - began
    cluster.advance(2 * LATENCY_MS)
    return took, spy, two


THIRD = b"the third one: 22 bytes"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_secret_is_refused_within_a_round_trip(
    cluster: Cluster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    took, spy, two = refuse(cluster, 1, WRONG[name])
    assert [type(error) for error in spy.log.errors()] == [AuthenticationError]
    # The first round trip connects; the answer to the first word is the second one.
    assert took <= 4 * LATENCY_MS
    stats = two.stats()
    assert (stats.handshakes_failed, stats.links_opened, stats.half_open) == (1, 0, 0)
    assert not two.connections
    assert [r.name for r in caplog.records if "handshake" in r.getMessage()] == ["netcore.host"]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_secret_rotated_out_lets_nobody_in_any_more(cluster: Cluster) -> None:
    old, new = b"the one of last year, 30 bytes", SECRET
    during = cluster.add(2, Spy(), secret=[new, old])
    spy = Spy()
    late = cluster.add(1, spy, secret=old)
    cluster.join(late, during)
    after = cluster.add(3, Spy(), secret=new)
    cluster.dial(late, after)
    cluster.until(lambda: spy.log.errors())
    assert [type(error) for error in spy.log.errors()] == [AuthenticationError]


def test_answer_to_a_wrong_secret_is_the_same_for_known_and_unknown_nodes(
    backend: BackendName,
) -> None:
    """A stranger learns by neither words nor time whether the node it claims to be has a link."""
    seen = set()
    for known in (False, True):
        with cluster_of(backend, latency_ms=LATENCY_MS) as cluster:
            two = cluster.add(2, Spy(), secret=SECRET)
            if known:
                cluster.join(cluster.add(1, Spy(), secret=SECRET), two)
            spy = Spy()
            began = cluster.now_ms
            cluster.dial(cluster.add(1, spy, secret=OTHER_SECRET), two)
            cluster.until(spy.log.errors)
            (error,) = spy.log.errors()
            seen.add((type(error), str(error), cluster.now_ms - began))
            assert len(two.connections) == known
    assert len(seen) == 1


# -- the canary ----------------------------------------------------------------------------------


def whole_session(cluster: Cluster) -> list[Any]:
    """Let nodes do all there is with their secrets; return what came of it."""

    def fail(*args: object) -> None:
        raise ValueError("a hook with a traceback")

    spies = [Spy(event=fail), Spy(rpc=lambda agent, req, res: res.ok(b"") or True)]
    one = cluster.add(1, spies[0], secret=[SECRET, OTHER_SECRET])
    two = cluster.add(2, spies[1], secret=SECRET)
    stranger_spy = Spy()
    stranger = cluster.add(3, stranger_spy, secret=b"of a stranger: 23 bytes")
    cluster.join(one, two)
    cluster.dial(stranger, one)
    one.agent(10).call(RouteRule.node(2), 10, b"", lambda answer: None)
    two.agent(10).send_to_node(1, b"")
    cluster.advance(3_000)
    cluster.dial(cluster.add(4, secret=OTHER_SECRET), one)
    cluster.settle()
    one.agent(10).close_node(2)
    cluster.advance(1_000)
    assert spies[0].log.of("event")
    return [*stranger_spy.log.errors(), *spies[0].log.errors()]


def test_no_text_of_a_whole_session_shows_a_secret(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = whole_session(cluster)
    texts = ["".join(traceback.format_exception(error)) for error in errors]
    for node in cluster.nodes:
        texts += [repr(node.stats()), str(node.stats().as_dict()), repr(node.config), repr(node)]
    for record in caplog.records:
        texts += [record.getMessage(), repr(record.args), str(record.exc_text)]
    assert len(caplog.records) > 5
    assert errors
    for text in texts:
        assert find_canary(text) is None


def test_no_living_object_of_netcore_shows_a_secret_or_a_key(cluster: Cluster) -> None:
    whole_session(cluster)
    seen = 0
    for thing in gc.get_objects():
        kind = type(thing)
        if str(kind.__module__).partition(".")[0] != "netcore":
            continue
        seen += 1
        for text in (repr(thing), str(thing)):
            assert find_canary(text) is None, kind
    assert seen > 100


def test_canary_finds_what_it_looks_for() -> None:
    key = next(iter(KeyRing([SECRET])._keys.values()))
    for text in (SECRET.decode(), SECRET.hex(), repr(SECRET), repr([SECRET]), key.hex(), repr(key)):
        assert find_canary(f"... {text} ...")
    assert find_canary("nothing here") is None
    assert len(CANARIES) > 5


@pytest.mark.parametrize(
    ("text", "outcome"), [("nothing", "passed"), (f"key {SECRET!r}", "failed")]
)
def test_test_whose_output_shows_a_secret_fails(text: str, outcome: str) -> None:
    report = SimpleNamespace(sections=[("Captured log call", text)], outcome="passed", longrepr="")
    hook = conftest.pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(SimpleNamespace(get_result=lambda: report))
    assert report.outcome == outcome
