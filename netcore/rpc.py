"""What users see of calls: classes of the backend that was chosen at import, like ``Message``."""

from __future__ import annotations

from ._backend import kernels

__all__ = ["CallAnswer", "RpcAnswer", "RpcRequest"]

CallAnswer = kernels.CallAnswer
RpcAnswer = kernels.RpcAnswer
RpcRequest = kernels.RpcRequest
