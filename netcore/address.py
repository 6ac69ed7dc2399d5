"""NodeAddr: where a node can be reached, parsed strictly and printed canonically.

Grammar, with ``ID@`` optional and at least one endpoint::

    address  = [ ID "@" ] endpoint { endpoint }
    endpoint = "/ip4/" A "/tcp/" PORT | "/ip6/" A "/tcp/" PORT | "/dns/" NAME "/tcp/" PORT
             | "/memory/" NAME | "/unix/" PATH            (PATH is the rest of the text)

Parsing and printing are inverse: ``NodeAddr.parse(str(addr)) == addr``. What is not in the grammar
is an ``AddressError`` that says at which character; nothing is skipped or guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from . import wire
from ._typing import Final, Literal, cast, final
from .errors import AddressError, LocalError
from .ids import check_node_id
from .values import dataclass

__all__ = ["Endpoint", "EndpointKind", "NodeAddr", "is_loopback", "parse_addr"]

EndpointKind = Literal["ip4", "ip6", "dns", "unix", "memory"]

MAX_PORT: Final = 65_535
MAX_DNS_NAME_CHARS: Final = 253  # RFC 1035 allows 255 octets on the wire, lengths included
#: Alternatives of one address. A dial tries each with its own timeout, so more would only be slow.
MAX_ENDPOINTS: Final = 32
#: Texts that need not be read again: who dials often dials the same few, and reading one costs a
#: tenth of a dial. Longer texts are not kept.
MAX_PARSED: Final = 256
MAX_PARSED_CHARS: Final = 256

_DECIMAL: Final = r"0|[1-9][0-9]{0,9}"
_DNS_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MEMORY_NAME: Final = r"[A-Za-z0-9._-]{1,64}"
_SCOPE: Final = r"[A-Za-z0-9._-]{1,15}"  # an interface: IFNAMSIZ is 16 with its NUL


def _matches(pattern: str, text: str) -> bool:
    import re  # with the first address that has to be read

    return re.fullmatch(pattern, text) is not None


def _canonical_ip4(host: str) -> str:
    import ipaddress

    return str(ipaddress.IPv4Address(host))


def _canonical_ip6(host: str) -> str:
    import ipaddress

    address = ipaddress.IPv6Address(host)
    if address.scope_id is not None and not _matches(_SCOPE, address.scope_id):
        raise ValueError("bad scope")
    if address.ipv4_mapped is not None and address.scope_id is None:
        # Python prints this form since 3.13 and plain hexadecimal before: say it ourselves.
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def _canonical_dns(host: str) -> str:
    labels = host.split(".")
    # RFC 1123, section 2.1: the last label is not all digits, so that no name reads as an address.
    if len(host) > MAX_DNS_NAME_CHARS or not all(_matches(_DNS_LABEL, label) for label in labels):
        raise ValueError("bad label")
    if labels[-1].isdigit():
        raise ValueError("an address, not a name")
    return host.lower()


def _canonical_unix(host: str) -> str:
    if not host.strip("/") or "\0" in host or host.endswith("/"):
        raise ValueError("bad path")
    os.fsencode(host)  # UnicodeEncodeError is a ValueError
    return "/" + host.lstrip("/")


def _canonical_memory(host: str) -> str:
    if not _matches(_MEMORY_NAME, host):
        raise ValueError("bad name")
    return host


#: kind -> (its canonical form, or ValueError; what is expected, for the error text).
_HOSTS: Final[dict[str, tuple[Callable[[str], str], str]]] = {
    "ip4": (_canonical_ip4, "an IPv4 address such as 127.0.0.1"),
    "ip6": (_canonical_ip6, "an IPv6 address such as ::1"),
    "dns": (_canonical_dns, "a host name such as node.example"),
    "unix": (_canonical_unix, "the path of a socket file such as /run/netcore.sock"),
    "memory": (_canonical_memory, "a name of 1..64 letters, digits, '.', '_' and '-'"),
}
_WITH_PORT: Final = frozenset({"ip4", "ip6", "dns"})


def _canonical_host(kind: str, host: str) -> str:
    """Return the canonical form of ``host``; ValueError says what was expected instead."""
    canonical, expected = _HOSTS[kind]
    try:
        return canonical(host)
    except ValueError:
        raise ValueError(f"expected {expected}, not {host!r}") from None


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to connect to or to listen at, checked and in canonical form.

    Attributes:
        kind: What kind of place.
        host: Address, host name, absolute path (unix) or name (memory).
        port: TCP port, 0 = any free one when listening; 0 for unix and memory.
    """

    kind: EndpointKind
    host: str
    port: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _HOSTS:
            raise AddressError(str(self.kind), 0, f"expected one of {', '.join(_HOSTS)}")
        highest = MAX_PORT if self.kind in _WITH_PORT else 0
        if not isinstance(self.host, str) or not isinstance(self.port, int):
            raise LocalError(f"an endpoint has a str and an int, not {self.host!r}, {self.port!r}")
        if not 0 <= self.port <= highest:
            raise AddressError(str(self.port), 0, f"expected a port in 0..{highest}")
        try:
            object.__setattr__(self, "host", _canonical_host(self.kind, self.host))
        except ValueError as exc:
            raise AddressError(self.host, 0, str(exc)) from None

    @classmethod
    def of_canonical(cls, kind: EndpointKind, host: str, port: int) -> Endpoint:
        """Return an endpoint of parts that are checked, or that the system gave us."""
        endpoint = cls.__new__(cls)
        put = object.__setattr__
        put(endpoint, "kind", kind)
        put(endpoint, "host", host)
        put(endpoint, "port", port)
        return endpoint

    def __str__(self) -> str:
        if self.kind in _WITH_PORT:
            return f"/{self.kind}/{self.host}/tcp/{self.port}"
        return f"/unix{self.host}" if self.kind == "unix" else f"/memory/{self.host}"


def is_loopback(endpoint: Endpoint) -> bool:
    """Return whether only this machine can reach the endpoint.

    A host name is never taken for loopback: what it resolves to is not ours to know.
    """
    import ipaddress

    if endpoint.kind == "ip4":
        return ipaddress.IPv4Address(endpoint.host).is_loopback
    if endpoint.kind == "ip6":
        address = ipaddress.IPv6Address(endpoint.host)
        return (address.ipv4_mapped or address).is_loopback
    return endpoint.kind in ("unix", "memory")


@final
@dataclass(frozen=True, slots=True)
class NodeAddr:
    """A node id, if known, and the endpoints to try, in order.

    Attributes:
        node_id: Who is expected there; None accepts any node.
        endpoints: At least one; a unix one is the last.
    """

    node_id: int | None
    endpoints: tuple[Endpoint, ...]

    def __post_init__(self) -> None:
        if self.node_id is not None:
            check_node_id(self.node_id)
        object.__setattr__(self, "endpoints", tuple(self.endpoints))
        for endpoint in self.endpoints:
            if not isinstance(endpoint, Endpoint):
                raise LocalError(f"a NodeAddr is made of Endpoints, not of {endpoint!r}")
        if not 1 <= len(self.endpoints) <= MAX_ENDPOINTS:
            raise LocalError(f"a NodeAddr has 1..{MAX_ENDPOINTS} endpoints")
        if any(endpoint.kind == "unix" for endpoint in self.endpoints[:-1]):
            raise LocalError("a unix endpoint comes last in a NodeAddr: its path takes the rest")

    @classmethod
    def parse(cls, text: str) -> NodeAddr:
        """Return the address that ``text`` spells.

        Raises:
            AddressError: It is not one; ``offset`` says where.
        """
        if not isinstance(text, str):
            raise LocalError(f"an address is a str or a NodeAddr, not {type(text).__name__}")
        known = _parsed.get(text)
        if known is not None:
            return known
        node_id, offset = _parse_node_id(text)
        endpoints: list[Endpoint] = []
        while offset < len(text) or not endpoints:
            if len(endpoints) == MAX_ENDPOINTS:
                raise AddressError(text, offset, f"expected at most {MAX_ENDPOINTS} endpoints")
            endpoint, offset = _parse_endpoint(text, offset)
            endpoints.append(endpoint)
        addr = cls(node_id, tuple(endpoints))
        if type(text) is str and len(text) <= MAX_PARSED_CHARS:
            if len(_parsed) >= MAX_PARSED:
                _parsed.clear()
            _parsed[text] = addr
        return addr

    def with_node_id(self, node_id: int | None) -> NodeAddr:
        """Return the same endpoints under this node id."""
        return NodeAddr(node_id, self.endpoints)

    def __str__(self) -> str:
        prefix = "" if self.node_id is None else f"{self.node_id}@"
        return prefix + "".join(map(str, self.endpoints))


#: Text -> its address, which is immutable; bounded by MAX_PARSED.
_parsed: Final[dict[str, NodeAddr]] = {}


def parse_addr(value: str | NodeAddr) -> NodeAddr:
    """Return ``value`` as a NodeAddr.

    Raises:
        AddressError: It is a text, but not an address.
        LocalError: It is neither a text nor a NodeAddr.
    """
    return value if isinstance(value, NodeAddr) else NodeAddr.parse(value)


def _parse_node_id(text: str) -> tuple[int | None, int]:
    """Return the node id before the ``@`` and where the endpoints begin."""
    head, at, _ = text.partition("@")
    if not at or "/" in head:
        return None, 0
    if not _matches(_DECIMAL, head) or int(head) > wire.MAX_NODE_ID:
        raise AddressError(text, 0, f"expected a node id in 0..{wire.MAX_NODE_ID} before '@'")
    return int(head), len(head) + 1


def _part(text: str, offset: int) -> tuple[str, int]:
    """Return the part of ``text`` between ``offset`` and the next slash, and its end."""
    end = text.find("/", offset)
    end = len(text) if end < 0 else end
    return text[offset:end], end


def _parse_endpoint(text: str, offset: int) -> tuple[Endpoint, int]:
    if text[offset : offset + 1] != "/":
        raise AddressError(text, offset, "expected '/' and an endpoint")
    kind, end = _part(text, offset + 1)
    if kind not in _HOSTS:
        expected = ", ".join(_HOSTS)
        raise AddressError(text, offset + 1, f"expected one of {expected}, not {kind!r}")
    start = end + 1
    host, end = (text[start:], len(text)) if kind == "unix" else _part(text, start)
    try:
        host = _canonical_host(kind, host)
    except ValueError as exc:
        raise AddressError(text, min(start, len(text)), str(exc)) from None
    port = 0
    if kind in _WITH_PORT:
        port, end = _parse_port(text, end)
    return Endpoint.of_canonical(cast(EndpointKind, kind), host, port), end


def _parse_port(text: str, offset: int) -> tuple[int, int]:
    if not text.startswith("/tcp/", offset):
        raise AddressError(text, offset, "expected '/tcp/' and a port")
    start = offset + len("/tcp/")
    port, end = _part(text, start)
    if not _matches(_DECIMAL, port) or int(port) > MAX_PORT:
        raise AddressError(text, start, f"expected a port in 0..{MAX_PORT}, not {port!r}")
    return int(port), end
