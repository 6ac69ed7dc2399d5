"""``netcore demo``: a small network that shows what netcore does, and checks that it is true."""

from __future__ import annotations

import signal

import netcore
from netcore import _backend

from . import CommandError
from .demo_cluster import Cluster
from .demo_scenario import Scenario, Settings
from .screen import Screen

__all__ = ["run_demo"]


def run_demo(settings: Settings, *, plain: bool) -> int:
    """Run the demo.

    Args:
        settings: What the user chose.
        plain: No redrawing, no colors.

    Returns:
        0: the sums agree; 1: they do not.

    Raises:
        CommandError: It could not be run to its end.
    """
    backend = _choose_backend(settings.backend)
    if settings.freeze and not hasattr(signal, "SIGSTOP"):
        raise CommandError("this system cannot freeze a process")
    with Screen(plain=plain) as screen:
        screen.say(
            f"netcore {netcore.__version__} demo: {backend} kernels, TCP on this machine, "
            f"seed {settings.seed}",
            "bold",
        )
        with Cluster() as cluster:
            verdict = Scenario(settings, screen, cluster).run()
    return 0 if verdict.ok else 1


def _choose_backend(wanted: str | None) -> str:
    if wanted is None:
        return netcore.BACKEND
    try:
        _backend.load("fast" if wanted == "fast" else "pure")
    except ImportError as exc:
        raise CommandError(f"the {wanted} backend is not there: {exc}") from None
    return wanted
