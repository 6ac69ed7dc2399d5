"""All targets, by name."""

from __future__ import annotations

from types import ModuleType

from netcore import _backend

from .decoders import AddressTarget, FrameTarget, HeaderTarget, RecordTarget, SyncTarget
from .handshakes import AuthTarget, HelloTarget
from .plane import PlaneTarget
from .target import Target
from .traffic import BroadcastTarget, CallTarget
from .twins import TwinsTarget

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        FrameTarget,
        HelloTarget,
        AuthTarget,
        RecordTarget,
        HeaderTarget,
        CallTarget,
        SyncTarget,
        AddressTarget,
        BroadcastTarget,
        PlaneTarget,
        TwinsTarget,
    )
}


def make_target(name: str, backend: _backend.BackendName | None = None) -> Target:
    """Return a target on one backend, by default the one chosen at import."""
    kernels: ModuleType = _backend.load(backend or _backend.kernels.NAME)
    return TARGETS[name](kernels)
