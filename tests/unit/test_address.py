from __future__ import annotations

import pytest

from netcore import address
from netcore.address import MAX_ENDPOINTS, Endpoint, NodeAddr, is_loopback, parse_addr
from netcore.errors import AddressError, LocalError

LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "a" * 61])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1@/ip4/127.0.0.1/tcp/0", NodeAddr(1, (Endpoint("ip4", "127.0.0.1", 0),))),
        ("/ip4/10.0.0.1/tcp/65535", NodeAddr(None, (Endpoint("ip4", "10.0.0.1", 65535),))),
        ("0@/ip6/::1/tcp/5", NodeAddr(0, (Endpoint("ip6", "::1", 5),))),
        ("4294967294@/memory/a", NodeAddr(4294967294, (Endpoint("memory", "a"),))),
        ("/ip6/fe80::1%eth0/tcp/5", NodeAddr(None, (Endpoint("ip6", "fe80::1%eth0", 5),))),
        ("/ip6/::ffff:1.2.3.4/tcp/5", NodeAddr(None, (Endpoint("ip6", "::ffff:1.2.3.4", 5),))),
        ("/dns/node-1.example/tcp/80", NodeAddr(None, (Endpoint("dns", "node-1.example", 80),))),
        ("/dns/localhost/tcp/80", NodeAddr(None, (Endpoint("dns", "localhost", 80),))),
        (f"/dns/{NAME_253}/tcp/80", NodeAddr(None, (Endpoint("dns", NAME_253, 80),))),
        ("/memory/" + "m" * 64, NodeAddr(None, (Endpoint("memory", "m" * 64),))),
        ("/memory/A.b_c-9", NodeAddr(None, (Endpoint("memory", "A.b_c-9"),))),
        ("/unix/tmp/a", NodeAddr(None, (Endpoint("unix", "/tmp/a"),))),
        ("/unix/tmp/a@b/ip4/c", NodeAddr(None, (Endpoint("unix", "/tmp/a@b/ip4/c"),))),
    ],
)
def test_parse_canonical_text_is_the_inverse_of_str(text: str, expected: NodeAddr) -> None:
    assert NodeAddr.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/unix//tmp/a", "/unix/tmp/a"),
        ("/unix///tmp/a", "/unix/tmp/a"),
        ("/ip6/0:0:0:0:0:0:0:1/tcp/5", "/ip6/::1/tcp/5"),
        ("/ip6/::FFFF:102:304/tcp/5", "/ip6/::ffff:1.2.3.4/tcp/5"),
        ("/dns/Node.Example/tcp/5", "/dns/node.example/tcp/5"),
    ],
)
def test_parse_other_spellings_prints_the_canonical_one(text: str, canonical: str) -> None:
    assert str(NodeAddr.parse(text)) == canonical


def test_parse_alternatives_keeps_their_order() -> None:
    addr = NodeAddr.parse("1@/ip4/1.2.3.4/tcp/5/memory/m/dns/a.b/tcp/7/unix/x/y")
    assert addr.endpoints == (
        Endpoint("ip4", "1.2.3.4", 5),
        Endpoint("memory", "m"),
        Endpoint("dns", "a.b", 7),
        Endpoint("unix", "/x/y"),
    )
    assert str(addr) == "1@/ip4/1.2.3.4/tcp/5/memory/m/dns/a.b/tcp/7/unix/x/y"


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("", 0),
        ("1", 0),
        ("1@", 2),
        ("@/memory/a", 0),
        ("+1@/memory/a", 0),
        (" 1@/memory/a", 0),
        ("01@/memory/a", 0),
        ("00@/memory/a", 0),
        ("1_0@/memory/a", 0),
        ("-1@/memory/a", 0),
        ("\u0663@/memory/a", 0),  # an Arabic digit: isdigit() would take it
        ("4294967295@/memory/a", 0),
        ("99999999999@/memory/a", 0),
        ("1@2@/memory/a", 2),
        ("1@memory/a", 2),
        ("/", 1),
        ("//", 1),
        ("/udp/1", 1),
        ("/ip4", 4),
        ("/ip4/", 5),
        ("/ip4/1.2.3/tcp/1", 5),
        ("/ip4/1.2.3.04/tcp/1", 5),
        ("/ip4/256.2.3.4/tcp/1", 5),
        ("/ip4/::1/tcp/1", 5),
        ("/ip6/1.2.3.4/tcp/1", 5),
        ("/ip6/::g/tcp/1", 5),
        ("/ip6/fe80::1%/tcp/1", 5),
        ("/ip6/fe80::1%a b/tcp/1", 5),
        ("/dns//tcp/1", 5),
        ("/dns/-a/tcp/1", 5),
        ("/dns/a-/tcp/1", 5),
        ("/dns/a..b/tcp/1", 5),
        ("/dns/a./tcp/1", 5),
        ("/dns/a_b/tcp/1", 5),
        ("/dns/1.2.3.4/tcp/1", 5),
        (f"/dns/{LABEL_63}a/tcp/1", 5),
        (f"/dns/{NAME_253}a/tcp/1", 5),
        ("/dns/\u00e4/tcp/1", 5),
        ("/ip4/1.2.3.4", 12),
        ("/ip4/1.2.3.4/udp/1", 12),
        ("/ip4/1.2.3.4/tcp", 12),
        ("/ip4/1.2.3.4/tcp/", 17),
        ("/ip4/1.2.3.4/tcp/+1", 17),
        ("/ip4/1.2.3.4/tcp/01", 17),
        ("/ip4/1.2.3.4/tcp/65536", 17),
        ("/ip4/1.2.3.4/tcp/1\n", 17),
        ("/ip4/1.2.3.4/tcp/1/", 19),
        ("/ip4/1.2.3.4/tcp/1/p2p/2", 19),
        ("/memory/", 8),
        ("/memory/a b", 8),
        ("/memory/" + "m" * 65, 8),
        ("/memory/a\n", 8),
        ("/unix", 5),
        ("/unix/", 6),
        ("/unix//", 6),
        ("/unix/tmp/", 6),
        ("/unix/a\0b", 6),
        ("/unix/a\ud800", 6),  # no file can have this name
    ],
)
def test_parse_bad_text_raises_where_it_goes_wrong(text: str, offset: int) -> None:
    with pytest.raises(AddressError) as caught:
        NodeAddr.parse(text)
    assert (caught.value.text, caught.value.offset) == (text, offset)


def test_parse_too_many_endpoints_raises_at_the_first_too_many() -> None:
    NodeAddr.parse("/memory/a" * MAX_ENDPOINTS)
    with pytest.raises(AddressError) as caught:
        NodeAddr.parse("/memory/a" * (MAX_ENDPOINTS + 1))
    assert caught.value.offset == 9 * MAX_ENDPOINTS


def test_with_node_id_keeps_the_endpoints() -> None:
    assert str(NodeAddr.parse("/memory/a").with_node_id(7)) == "7@/memory/a"
    assert str(NodeAddr.parse("7@/memory/a").with_node_id(None)) == "/memory/a"


def test_parse_addr_accepts_text_and_node_addr() -> None:
    addr = NodeAddr.parse("1@/memory/a")
    assert parse_addr("1@/memory/a") == addr
    assert parse_addr(addr) is addr


def test_text_read_before_is_not_read_again_and_few_are_kept() -> None:
    first = NodeAddr.parse("7@/ip4/192.0.2.1/tcp/1")
    assert NodeAddr.parse("7@/ip4/192.0.2.1/tcp/1") is first
    for port in range(1, 2 * address.MAX_PARSED):
        NodeAddr.parse(f"/ip4/192.0.2.2/tcp/{port}")
    assert len(address._parsed) <= address.MAX_PARSED
    assert NodeAddr.parse("7@/ip4/192.0.2.1/tcp/1") == first
    long = "/unix/" + "x" * address.MAX_PARSED_CHARS
    assert NodeAddr.parse(long) == NodeAddr.parse(long)
    assert long not in address._parsed


def test_text_that_is_no_address_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(AddressError):
            NodeAddr.parse("/ip4/192.0.2.1/tcp/x")


def test_parse_addr_of_another_type_raises_local_error() -> None:
    with pytest.raises(LocalError):
        parse_addr(1)  # type: ignore[arg-type]


def test_endpoint_built_directly_is_made_canonical() -> None:
    assert Endpoint("ip6", "0::1", 1) == Endpoint("ip6", "::1", 1)


@pytest.mark.parametrize(
    ("kind", "host", "port"),
    [("ip4", "x", 1), ("ip4", "1.2.3.4", 65536), ("memory", "a", 1), ("udp", "1.2.3.4", 1)],
)
def test_endpoint_built_from_bad_parts_raises_address_error(
    kind: str, host: str, port: int
) -> None:
    with pytest.raises(AddressError):
        Endpoint(kind, host, port)  # type: ignore[arg-type]


def test_node_addr_with_bad_node_id_raises() -> None:
    with pytest.raises(LocalError):
        NodeAddr(2**32 - 1, (Endpoint("memory", "a"),))


@pytest.mark.parametrize(
    "endpoints", [(), (Endpoint("unix", "/a"), Endpoint("memory", "a"))], ids=["none", "unix first"]
)
def test_node_addr_with_unprintable_endpoints_raises(endpoints: tuple[Endpoint, ...]) -> None:
    with pytest.raises(LocalError):
        NodeAddr(1, endpoints)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/127.0.0.1/tcp/1", True),
        ("/ip4/127.9.9.9/tcp/1", True),
        ("/ip4/0.0.0.0/tcp/1", False),
        ("/ip4/10.0.0.1/tcp/1", False),
        ("/ip6/::1/tcp/1", True),
        ("/ip6/::/tcp/1", False),
        ("/ip6/::ffff:127.0.0.1/tcp/1", True),
        ("/ip6/::ffff:10.0.0.1/tcp/1", False),
        ("/dns/localhost/tcp/1", False),
        ("/unix/tmp/a", True),
        ("/memory/a", True),
    ],
)
def test_is_loopback_is_true_only_for_what_stays_on_this_machine(text: str, expected: bool) -> None:
    assert is_loopback(NodeAddr.parse(text).endpoints[0]) is expected
