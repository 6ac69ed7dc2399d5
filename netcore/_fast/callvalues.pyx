"""What users see of calls, as values: the request at the callee, the outcome at the caller."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

__all__ = ["CallAnswer", "RpcRequest"]


@cython.final
@cython.freelist(64)
cdef class CallAnswer:
    """What ``on_done`` is given. Immutable, compared by value."""

    def __init__(self, *, bint ok, bytes payload=b"", error=None):
        """Make an answer."""
        self.ok = ok
        self.payload = payload
        self.error = error

    def result(self):
        """Return the payload."""
        if self.error is not None:
            raise self.error
        return self.payload

    def __reduce__(self):
        return _restore_answer, (self.ok, self.payload, self.error)

    def __eq__(self, other):
        cdef CallAnswer theirs
        if type(other) is not CallAnswer:
            return NotImplemented
        theirs = <CallAnswer>other
        return (
            self.ok == theirs.ok
            and self.payload == theirs.payload
            and self.error == theirs.error
        )

    def __hash__(self):
        return hash((self.ok, self.payload, self.error))

    def __repr__(self):
        return f"CallAnswer(ok={self.ok!r}, payload={self.payload!r}, error={self.error!r})"


@cython.final
@cython.freelist(64)
cdef class RpcRequest:
    """A call, as ``on_rpc`` sees it. Immutable, compared by value."""

    def __init__(
        self,
        *,
        bytes payload,
        uint32_t from_node,
        uint8_t from_service,
        uint8_t to_service,
        uint32_t stream_id=0,
        long long deadline_ms=0,
        bint sender_verified=False,
    ):
        """Make a request."""
        self.payload = payload
        self.from_node = from_node
        self.from_service = from_service
        self.to_service = to_service
        self.stream_id = stream_id
        self.deadline_ms = deadline_ms
        self.sender_verified = sender_verified

    def _values(self):
        """Return all fields."""
        return (
            self.payload,
            self.from_node,
            self.from_service,
            self.to_service,
            self.stream_id,
            self.deadline_ms,
            self.sender_verified,
        )

    def __reduce__(self):
        return _restore_request, self._values()

    def __eq__(self, other):
        if type(other) is not RpcRequest:
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self):
        return hash(self._values())

    def __repr__(self):
        return (
            f"RpcRequest(payload={self.payload!r}, from_node={self.from_node}, "
            f"from_service={self.from_service}, to_service={self.to_service}, "
            f"stream_id={self.stream_id}, deadline_ms={self.deadline_ms}, "
            f"sender_verified={self.sender_verified})"
        )


def _restore_answer(ok, payload, error):
    return CallAnswer(ok=ok, payload=payload, error=error)


def _restore_request(
    payload, from_node, from_service, to_service, stream_id, deadline_ms, sender_verified
):
    return RpcRequest(
        payload=payload,
        from_node=from_node,
        from_service=from_service,
        to_service=to_service,
        stream_id=stream_id,
        deadline_ms=deadline_ms,
        sender_verified=sender_verified,
    )
