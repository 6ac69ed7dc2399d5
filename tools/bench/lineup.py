"""Who takes part: every module in ``contestants`` that can run here, and why the others cannot."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from . import contestants
from .build import BuildError
from .workloads import Workload

__all__ = ["BASELINE", "YARDSTICK", "Contestant", "Lineup", "find"]

#: The contestant that all others are compared with, and the one that imports nothing.
YARDSTICK: Final = "C"
BASELINE: Final = "bare interpreter"

#: What is measured once, not also for each variant by options: it takes long, or is the same.
_ALONE: Final = ("idle_server", "churn_server", "importing", "lookup")

#: These first, in this order; the others behind them by name.
_FIRST: Final = ("c", "netcore_node")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the workloads.

    Attributes:
        name: In filters, JSON and report.
        module: Run with ``python -m``.
        options: Passed to each of its processes.
        environ: Environment variables of these processes.
        roles: What it can do.
        extras: What it can do beyond that.
        version: Of what it measures.
    """

    name: str
    module: str
    options: Mapping[str, str]
    environ: Mapping[str, str]
    roles: frozenset[str]
    extras: frozenset[str]
    version: str

    @property
    def yardstick(self) -> str:
        """Whom it is compared with: C over the same kind of socket."""
        return f"{YARDSTICK} unix" if "unix" in self.options else YARDSTICK

    def offers(self, workload: Workload) -> bool:
        """Return whether it can do that."""
        return self.roles.issuperset(workload.roles) and (
            not workload.extra or workload.extra in self.extras
        )


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who takes part, and name -> why not."""

    contestants: tuple[Contestant, ...]
    skipped: Mapping[str, str]


def find() -> Lineup:
    """Import all contestants and prepare those that can run here."""
    found: list[Contestant] = []
    skipped: dict[str, str] = {}
    names = [info.name for info in pkgutil.iter_modules(contestants.__path__)]
    for name in sorted(names, key=lambda n: (_FIRST.index(n) if n in _FIRST else 99, n)):
        loaded = _try_to_load(f"{contestants.__name__}.{name}")
        if isinstance(loaded, str):
            skipped[name] = loaded
        else:
            found += loaded
    return Lineup(tuple(found), skipped)


def _try_to_load(path: str) -> list[Contestant] | str:
    """Return the variants of a contestant, or why it cannot run here."""
    try:
        return _load(path)
    except (BuildError, ImportError) as error:
        return " ".join(str(error).split())


def _load(path: str) -> list[Contestant]:
    module = importlib.import_module(path)
    for package in module.REQUIRES:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed")
    version = _version(module)
    variants: Mapping[str, Mapping[str, str]] = getattr(module, "VARIANTS", {module.NAME: {}})
    environ: Mapping[str, Mapping[str, str]] = getattr(module, "ENVIRON", {})
    return [
        Contestant(
            name,
            path,
            options,
            environ.get(name, {}),
            frozenset(module.ROLES).difference(_ALONE if options else ()),
            frozenset(getattr(module, "EXTRAS", ())),
            version,
        )
        for name, options in variants.items()
    ]


def _version(module: ModuleType) -> str:
    """Return what ``prepare()`` says, else the versions of the packages it needs."""
    if hasattr(module, "prepare"):
        return str(module.prepare())
    owners = importlib.metadata.packages_distributions()
    parts = [_package_version(package, owners) for package in module.REQUIRES]
    return ", ".join(parts) or f"CPython {platform.python_version()}"


def _package_version(package: str, owners: Mapping[str, list[str]]) -> str:
    owner = owners.get(package.partition(".")[0], [package])[0]
    try:
        return f"{owner} {importlib.metadata.version(owner)}"
    except importlib.metadata.PackageNotFoundError:
        return package
