"""The package as users get it: built from a clean copy, installed elsewhere, run from elsewhere.

The tree itself is never built here: it would change under the tests that run from it.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import xxhash

from support.source_tree import FAST, REPO, files

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed"),
]

NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/cc"}
KERNELS = {path.stem for path in FAST.glob("*.pyx")}

SMOKE = """
import netcore
from netcore import _backend
table = _backend.kernels.RouteTable(0x01020304)
table.set_next(0, 0x05, 7, 0x01020305)
print(netcore.BACKEND, netcore.__version__, netcore.__file__, table.path_to_node(0x01020305))
"""


def clean_env(**extra: str) -> dict[str, str]:
    """Return the environment without what would change a build or an import."""
    drop = ("NETCORE_", "PYTHON", "COVERAGE", "CFLAGS", "LDFLAGS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **extra}


def run(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    faulthandler.cancel_dump_traceback_later()  # a compiler may take longer than a test should
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env or clean_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )


def build_flags() -> list[str]:
    """Build with what is installed where that is enough; else pip fetches the build tools."""
    try:
        setuptools = importlib.metadata.version("setuptools")
        importlib.metadata.version("Cython")
    except importlib.metadata.PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if int(setuptools.partition(".")[0]) >= 80 else []


def build(
    tmp: Path, env: dict[str, str], *flags: str
) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Build a wheel from a fresh copy of the tree; return how that went and the wheels."""
    source, out = tmp / "source", tmp / "out"
    copy_tree(source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", *build_flags(), *flags]
    done = run(*command, "-w", out, source, cwd=tmp, env=env)
    return done, sorted(out.glob("*.whl"))


def copy_tree(to: Path) -> None:
    """Copy what a fresh clone would have; built kernels and left-overs stay behind."""
    for path in files(""):
        if path.suffix not in (".so", ".c", ".html"):
            target = to / path.relative_to(REPO)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def built(tmp: Path, env: dict[str, str]) -> Path:
    """Build one wheel that must succeed."""
    done, wheels = build(tmp, env)
    assert done.returncode == 0, done.stdout
    assert len(wheels) == 1, done.stdout
    return wheels[0]


def install(wheel: Path, tmp: Path) -> Path:
    """Install a wheel into a new environment and return its interpreter; nothing is fetched."""
    home = tmp / "venv"
    venv.create(home, with_pip=True, symlinks=os.name != "nt")
    python = home / "bin" / "python"
    done = run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp)
    assert done.returncode == 0, done.stdout
    # The one dependency is borrowed from the environment that runs the tests.
    site = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))", cwd=tmp
    ).stdout.strip()
    dependencies = Path(xxhash.__file__).resolve().parents[1]
    (Path(site) / "borrowed.pth").write_text(f"{dependencies}\n", "utf-8")
    return python


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def fast_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("NETCORE_PURE") != "0" and not shutil.which(os.environ.get("CC", "cc")):
        pytest.skip("no C compiler")
    return built(tmp_path_factory.mktemp("fast"), clean_env(NETCORE_PURE="0"))


@pytest.fixture(scope="module")
def fast_python(fast_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(fast_wheel, tmp_path_factory.mktemp("fast_install"))


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Build where there is no compiler; return the log and the wheel."""
    done, wheels = build(tmp_path_factory.mktemp("fallback"), clean_env(**NO_COMPILER), "-v")
    assert done.returncode == 0, done.stdout
    return done.stdout, wheels[0]


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("pure"), clean_env(NETCORE_PURE="1", **NO_COMPILER))


def test_wheel_has_all_kernels_types_and_no_generated_c(fast_wheel: Path) -> None:
    names = names_in(fast_wheel)
    compiled = {name.split("/")[-1].split(".")[0] for name in names if name.endswith(".so")}
    assert compiled == KERNELS
    assert {"netcore/py.typed", "netcore/_fast/codec.pyi"} <= set(names)
    assert not [name for name in names if name.endswith(".c")]


def test_wheel_has_the_package_only(fast_wheel: Path) -> None:
    top = {name.split("/")[0] for name in names_in(fast_wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"netcore"}


@pytest.mark.parametrize(("switch", "expected"), [("0", "fast"), ("1", "pure"), (None, "fast")])
def test_installed_wheel_runs_on_the_backend_asked_for(
    fast_python: Path, tmp_path: Path, switch: str | None, expected: str
) -> None:
    env = clean_env() if switch is None else clean_env(NETCORE_PURE=switch)
    assert smoke(fast_python, tmp_path, env) == expected


def smoke(python: Path, cwd: Path, env: dict[str, str]) -> str:
    """Use the installed package and return the backend it chose."""
    done = run(python, "-W", "error", "-c", SMOKE, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout
    backend, _, file, route = done.stdout.strip().split(" ", 3)
    assert Path(file).resolve().is_relative_to(python.parents[1].resolve())
    assert route == "(2, 7, 16909061)"
    return backend


@pytest.mark.parametrize("switch", ["0", "1"])
def test_installed_command_runs_the_demo(fast_python: Path, tmp_path: Path, switch: str) -> None:
    command = fast_python.with_name("netcore")
    done = run(command, "demo", cwd=tmp_path, env=clean_env(NETCORE_PURE=switch))
    assert done.returncode == 0, done.stdout


def test_build_without_a_compiler_falls_back_and_says_so(fallback: tuple[str, Path]) -> None:
    log, wheel = fallback
    assert not [name for name in names_in(wheel) if name.endswith(".so")]
    assert "the compiled kernels were NOT built" in log


def test_build_without_a_compiler_installs_the_pure_backend(
    fallback: tuple[str, Path], tmp_path: Path
) -> None:
    assert smoke(install(fallback[1], tmp_path), tmp_path, clean_env()) == "pure"


def test_build_without_a_compiler_fails_where_kernels_are_demanded(tmp_path: Path) -> None:
    done, wheels = build(tmp_path, clean_env(NETCORE_PURE="0", **NO_COMPILER))
    assert (done.returncode != 0, wheels) == (True, [])


def test_build_of_pure_kernels_is_a_wheel_for_every_platform(pure_wheel: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names_in(pure_wheel) if name.endswith(".so")]


def test_build_refuses_an_unknown_switch(tmp_path: Path) -> None:
    done, _ = build(tmp_path, clean_env(NETCORE_PURE="yes"))
    assert "NETCORE_PURE must be unset, 0 or 1, not 'yes'" in done.stdout


def test_sdist_has_all_sources_and_nothing_generated(tmp_path: Path) -> None:
    if not build_flags():
        pytest.skip("setuptools>=80 and Cython are not installed")
    source, out = tmp_path / "source", tmp_path / "out"
    copy_tree(source)
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    done = run(sys.executable, "-c", code, cwd=source)
    assert done.returncode == 0, done.stdout
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path.relative_to(REPO).as_posix() for path in FAST.glob("*.p[xy]*")}
    assert wanted <= names
    assert {"tests/conftest.py", "LICENSE", "netcore/py.typed"} <= names
    assert not [name for name in names if name.endswith((".c", ".so", ".pyc"))]
