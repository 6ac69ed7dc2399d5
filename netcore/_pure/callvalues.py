"""What users see of calls, as values: the request at the callee, the outcome at the caller."""

from __future__ import annotations

from .._typing import final
from ..errors import CallError
from ..values import dataclass

__all__ = ["CallAnswer", "RpcRequest"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What ``on_done`` is given. Immutable, compared by value.

    Attributes:
        ok: Whether the other side answered.
        payload: Its answer; empty when there is none.
        error: Why there is none, else None.
    """

    ok: bool
    payload: bytes = b""
    error: CallError | None = None

    def result(self) -> bytes:
        """Return the payload.

        Raises:
            CallError: There is none; this says why.
        """
        if self.error is not None:
            raise self.error
        return self.payload


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRequest:
    """A call, as ``on_rpc`` sees it. Immutable, compared by value.

    Attributes:
        payload: The caller's bytes.
        from_node: The node that calls.
        from_service: The service that calls.
        to_service: The service that is called.
        stream_id: As the caller set it.
        deadline_ms: When the caller gives up, on this node's clock (``agent.now_ms``); the time
            the request travelled is not in it.
        sender_verified: Whether ``from_node`` is the other end of the link, or this node.
    """

    payload: bytes
    from_node: int
    from_service: int
    to_service: int
    stream_id: int = 0
    deadline_ms: int = 0
    sender_verified: bool = False
