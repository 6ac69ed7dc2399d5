"""``netcore info``: which netcore runs here, on which backend and why, within which limits."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import netcore
from netcore import NodeConfig, _backend

__all__ = ["Info", "collect", "readable", "render", "run_info", "why_backend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What the command shows.

    Attributes:
        version: Of netcore.
        backend: "fast" or "pure".
        reason: Why this one.
        path: Where netcore was imported from.
        python: Implementation, version and path of the interpreter.
        platform: System and architecture.
        limits: The defaults of ``NodeConfig``.
    """

    version: str
    backend: str
    reason: str
    path: str
    python: str
    platform: str
    limits: dict[str, int | bool]


def run_info(*, as_json: bool) -> int:
    """Print it."""
    info = collect()
    print(json.dumps(asdict(info), indent=2) if as_json else render(info))
    return 0


def collect() -> Info:
    """Look around."""
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    return Info(
        version=netcore.__version__,
        backend=netcore.BACKEND,
        reason=why_backend(netcore.BACKEND, os.environ),
        path=str(Path(netcore.__file__).parent),
        python=python,
        platform=platform.platform(),
        limits=default_limits(),
    )


def why_backend(backend: str, environ: Mapping[str, str]) -> str:
    """Say why this backend was chosen.

    Args:
        backend: The one in use.
        environ: The environment it was chosen in.
    """
    pure = environ.get("NETCORE_PURE", "")
    if backend == "fast":
        return "compiled kernels" + (", demanded by NETCORE_PURE=0" if pure == "0" else "")
    if pure == "1":
        return "asked for by NETCORE_PURE=1"
    try:
        _backend.load("fast")
    except ImportError as exc:
        return f"the compiled kernels are not there: {exc}"
    return "chosen at import"


def default_limits() -> dict[str, int | bool]:
    """Return every setting of ``NodeConfig`` that has a number as its default."""
    config = NodeConfig(node_id=0)
    names = [f.name for f in fields(config) if f.name not in ("node_id", "secret")]
    return {name: getattr(config, name) for name in names}


def render(info: Info) -> str:
    """Return the text for people."""
    facts = {
        "netcore": info.version,
        "backend": f"{info.backend} ({info.reason})",
        "imported from": info.path,
        "python": info.python,
        "platform": info.platform,
    }
    lines = [f"{name:<14} {value}" for name, value in facts.items()]
    lines += ["", "limits of a node (defaults; each one a keyword of Node)"]
    wide = max(len(name) for name in info.limits)
    for name, value in info.limits.items():
        lines.append(f"  {name:<{wide}}  {value!s:>10}  {readable(name, value)}".rstrip())
    return "\n".join(lines)


def readable(name: str, value: int | bool) -> str:
    """Return a number in the unit its name ends with, where that is easier to read."""
    if name.endswith("_bytes") and value >= 1024:
        mib, rest = divmod(value, 1 << 20)
        return f"{mib} MiB" if mib and not rest else f"{value / 1024:g} KiB"
    if name.endswith("_ms") and value >= 1_000:
        return f"{value / 1_000:g} s"
    return ""
