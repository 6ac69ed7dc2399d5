"""The pure-Python kernels. ``__all__`` is the contract that ``netcore._fast`` fulfils too."""

from __future__ import annotations

from typing import Final

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
from .switch import Switch
from .table import RouteTable
from .vitals import Vitals

__all__ = [
    "NAME",
    "Connection",
    "FrameSplitter",
    "Loop",
    "Message",
    "Port",
    "RouteTable",
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
