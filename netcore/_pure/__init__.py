"""The pure-Python kernels. ``__all__`` is the contract that ``netcore._fast`` fulfils too."""

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

NAME: Final = "pure"
