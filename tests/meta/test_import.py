"""Every module can be the first one imported, and importing netcore stays cheap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import netcore
from netcore import _backend
from support.backends import fast_is_built
from support.source_tree import FAST, modules

#: Imported by nobody who only wants a node on plain sockets.
HEAVY = (
    "asyncio", "concurrent.futures.process", "dataclasses", "hashlib", "hmac", "inspect",
    "ipaddress", "logging", "multiprocessing", "random", "re", "signal", "ssl", "threading",
    "typing", "unittest",
)  # fmt: skip
#: With the compiled kernels nor these: the first node brings them.
HEAVY_COMPILED = ("contextlib", "enum", "selectors", "socket", "weakref")
#: What a node on tcp needs of the former: randomness, reading its address, look-ups on threads.
OF_A_NODE = ("ipaddress", "random", "re", "threading")
#: Names whose modules are imported by whoever names them first.
LATE = ("MemoryNetwork", "MemoryTransport", "TcpTransport", "UnixTransport")
VIEWS = ("KnownNode", "KnownService", "Route", "RouteCandidate")


def run_fresh(code: str, pure: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in which only this netcore can be imported."""
    env = {key: value for key, value in os.environ.items() if key != "NETCORE_PURE"}
    if pure is not None:
        env["NETCORE_PURE"] = pure
    env["PYTHONPATH"] = str(Path(netcore.__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_imports_first(name: str) -> None:
    if name.startswith("netcore._fast") and not fast_is_built():
        pytest.skip("compiled kernels not built")
    done = run_fresh(f"import {name}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [path.stem for path in sorted(FAST.glob("*.pyx"))])
def test_compiled_kernel_imports_first(name: str) -> None:
    if not fast_is_built():
        pytest.skip("compiled kernels not built")
    done = run_fresh(f"import netcore._fast.{name}")
    assert done.returncode == 0, done.stderr


def test_import_of_netcore_loads_nothing_heavy(backend: _backend.BackendName) -> None:
    heavy = HEAVY if backend == "pure" else HEAVY + HEAVY_COMPILED
    code = f"""
import sys
before = set(sys.modules)  # an interpreter may come with some of them
import netcore
print([m for m in {heavy!r} if m in sys.modules and m not in before])
"""
    done = run_fresh(code, "1" if backend == "pure" else "0")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_node_that_listens_on_tcp_loads_nothing_heavy(backend: _backend.BackendName) -> None:
    code = f"""
import sys, netcore
class Service(netcore.NetworkBehavior):
    service_id = 10
with netcore.Node(1, [Service()]) as node:
    node.listen("/ip4/127.0.0.1/tcp/0")
    node.poll(0)
    print([m for m in {HEAVY!r} if m in sys.modules and m not in {OF_A_NODE!r}])
"""
    done = run_fresh(code, "1" if backend == "pure" else "0")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        *(("netcore", name) for name in (*LATE, *VIEWS)),
        *(("netcore.transport", name) for name in LATE),
    ],
)
def test_late_name_is_there_when_it_is_named(package: str, name: str) -> None:
    code = f"""
import {package} as package
assert {name!r} not in vars(package) and {name!r} in dir(package)
from {package} import {name} as first
assert package.{name} is first is vars(package)[{name!r}]
print(first.__name__)
"""
    done = run_fresh(code)
    assert (done.stdout.strip(), done.stderr) == (name, "")


@pytest.mark.parametrize("package", ["netcore", "netcore.transport"])
def test_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    done = run_fresh(f"import {package} as package; package.no_such_name")
    assert f"AttributeError: module {package!r} has no attribute 'no_such_name'" in done.stderr


def test_netcore_pure_1_chooses_the_pure_backend() -> None:
    done = run_fresh("import netcore; print(netcore.BACKEND)", "1")
    assert (done.stdout.strip(), done.stderr) == ("pure", "")


def test_netcore_pure_0_refuses_to_fall_back() -> None:
    # A finder that hides the compiled modules: as if they had not been built.
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("netcore._fast."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import netcore
print(netcore.BACKEND)
"""
    forced, free = run_fresh(code, "0"), run_fresh(code)
    assert "ModuleNotFoundError" in forced.stderr
    assert free.stdout.strip() == "pure"


def test_kernels_that_do_not_load_are_an_error_not_a_fallback() -> None:
    code = """
import sys
class Break:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("netcore._fast."):
            raise ImportError(f"{name}: undefined symbol", name=name)
sys.meta_path.insert(0, Break())
import netcore
"""
    assert "undefined symbol" in run_fresh(code).stderr


def test_netcore_pure_with_another_value_is_refused() -> None:
    done = run_fresh("import netcore", "yes")
    assert "NETCORE_PURE must be unset, 0 or 1, not 'yes'" in done.stderr
