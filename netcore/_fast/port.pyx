"""What an agent sends with: the routing rules spelled out, in the name of one service."""

cimport cython
from libc.stdint cimport uint32_t

from netcore._fast.buffer cimport KIND_MESSAGE
from netcore._fast.codec cimport (
    DEFAULT_TTL_HOPS,
    ROUTE_DIRECT,
    ROUTE_KEY,
    ROUTE_NODE,
    ROUTE_SERVICE,
    ROUTE_SERVICES,
    Message,
    plain,
)
from netcore._fast.connection cimport Connection
from netcore._fast.switch cimport Switch
from netcore._fast.table cimport NO_NODE

from netcore.errors import LocalError, NoRouteError
from netcore.ids import check_key, check_node_id, key_of
from netcore.route import BroadcastLevel, RouteRule, check_rule

__all__ = ["Port"]


@cython.auto_pickle(False)
@cython.final
cdef class Port:
    """Sends in the name of one service, for agents."""

    cdef readonly object service_id
    cdef Switch _switch
    cdef Connection _conn

    def __cinit__(self, Switch switch not None, service_id, Connection conn=None):
        """Make a port."""
        self.service_id = service_id
        self._switch = switch
        self._conn = conn

    def send(
        self, rule, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send where the rule says; raises like ``Switch.originate``."""
        if type(rule) is not RouteRule:  # cheaper than the call; it is final
            check_rule(rule)
        own = self.service_id
        self._switch._originate_checked(
            KIND_MESSAGE, rule.kind, rule.argument, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_node(
        self, node_id, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to the node with this id, over as many hops as it takes."""
        cdef long long number = plain(node_id, NO_NODE - 1)
        if number < 0:
            check_node_id(node_id)
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_NODE, <uint32_t>number, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_key(
        self, key, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to the node whose id is closest to the key, an int or a name for ``key_of``."""
        cdef long long number = plain(key, 0xFFFFFFFF)
        if number < 0:
            number = key_of(key) if isinstance(key, (str, bytes)) else check_key(key)
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_KEY, <uint32_t>number, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_service(
        self, service_id, payload, *, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to a node that offers the service: this one, else the nearest."""
        self._switch._originate(
            KIND_MESSAGE, ROUTE_SERVICE, 0, payload, self.service_id, service_id, stream_id, meta,
            ttl,
        )

    def broadcast(
        self,
        payload,
        *,
        level=BroadcastLevel.GLOBAL,
        to_service=None,
        stream_id=0,
        meta=0,
        ttl=DEFAULT_TTL_HOPS,
    ):
        """Send to every node within the level that offers the service, this one included."""
        own = self.service_id
        self._switch._originate_checked(
            KIND_MESSAGE, ROUTE_SERVICES, level, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_local(
        self, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send to this node's own behavior; it is called after the running hook."""
        own = self.service_id
        self._switch._originate(
            KIND_MESSAGE, ROUTE_DIRECT, 0, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_to_conn(
        self, conn_id, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send one hop over exactly this link."""
        own = self.service_id
        self._switch._send_on(
            self._switch._connections.get(conn_id), payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )

    def send_on_link(
        self, payload, *, to_service=None, stream_id=0, meta=0, ttl=DEFAULT_TTL_HOPS
    ):
        """Send one hop over the own link."""
        own = self.service_id
        self._switch._send_on(
            self._conn, payload, own, own if to_service is None else to_service, stream_id, meta,
            ttl,
        )

    def call(self, rule, service_id, payload, on_done, timeout_ms=5_000):
        """Call a service; raises like ``CallDesk.call``."""
        if self._switch._calls is None:
            raise LocalError("nobody takes calls here")
        self._switch._calls.c_call(
            self.service_id, rule, service_id, payload, on_done, timeout_ms
        )

    def reply(self, message, payload):
        """Send back to the message's node and service, with its ``stream_id``."""
        cdef Message asked
        if not isinstance(message, Message):
            raise TypeError(f"a reply is to a Message, not to {type(message).__name__}")
        asked = <Message>message
        if not asked.c_has_from:
            raise NoRouteError("a sender that did not give its node id")
        self._switch._originate(
            KIND_MESSAGE, ROUTE_NODE, asked.c_from_node, payload, self.service_id,
            asked.from_service, asked.stream_id, 0, DEFAULT_TTL_HOPS,
        )
