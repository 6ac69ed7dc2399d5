"""The compiled kernels: the names of ``netcore._pure``, at C speed.

Importing this package where they were not built raises ``ModuleNotFoundError``.
"""

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

NAME: Final = "fast"
