"""The compiled kernels: the names of ``netcore._pure``, at C speed.

Importing this package where they were not built raises ``ModuleNotFoundError``.
"""

from __future__ import annotations

from .._typing import Final
from .broadcast import BroadcastDesk, DuplicateFilter
from .calls import CallDesk, RpcAnswer
from .callvalues import CallAnswer, RpcRequest
from .codec import (
    FrameSplitter,
    Message,
    decode_header,
    decode_message,
    encode_frame,
    encode_header,
)
from .connection import Connection
from .loop import Loop, Source, Timer
from .port import Port
from .records import Records
from .switch import Switch
from .table import RouteTable
from .vitals import Vitals

__all__ = [
    "NAME",
    "BroadcastDesk",
    "CallAnswer",
    "CallDesk",
    "Connection",
    "DuplicateFilter",
    "FrameSplitter",
    "Loop",
    "Message",
    "Port",
    "Records",
    "RouteTable",
    "RpcAnswer",
    "RpcRequest",
    "Source",
    "Switch",
    "Timer",
    "Vitals",
    "decode_header",
    "decode_message",
    "encode_frame",
    "encode_header",
]

NAME: Final = "fast"
