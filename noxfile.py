"""Run the suite on every CPython from 3.10 on this machine, on both backends: ``nox``.

Interpreters are found by their name, python3.X, on PATH or among those of pyenv. One that is
missing is left out; naming it (``nox -s tests-3.14``) makes that an error.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

OLDEST = (3, 10)
CHECK = "import sys; print(sys.implementation.name, sys.version_info[0], sys.version_info[1])"

nox.options.sessions = ["tests"]
nox.options.reuse_venv = "yes"


def candidates():
    """Yield every file called python3.X in the folders where interpreters live."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in [*folders, *sorted(pyenv.glob("versions/*/bin"))]:
        for path in sorted(folder.glob("python3.*")) if folder.is_dir() else ():
            if re.fullmatch(r"python3\.\d+", path.name):
                yield path


def runs(path, version):
    """Say whether this is a CPython of that version; a pyenv shim may be neither."""
    try:
        done = subprocess.run(
            [path, "-c", CHECK], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return False
    return done.stdout.split() == ["cpython", *version.split(".")]


def interpreters():
    """Return version -> interpreter, oldest first; the first found of each version counts."""
    found = {}
    for path in candidates():
        version = path.name.removeprefix("python")
        new_enough = tuple(map(int, version.split("."))) >= OLDEST
        if new_enough and version not in found and runs(path, version):
            found[version] = path
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(".")[2])))


FOUND = interpreters()
# nox looks names up on PATH, where a pyenv shim may hide the interpreter it refuses to start.
BIN = Path(__file__).parent / ".nox" / "interpreters"
shutil.rmtree(BIN, ignore_errors=True)
BIN.mkdir(parents=True)
for _version, _path in FOUND.items():
    (BIN / f"python{_version}").symlink_to(_path)
os.environ["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])


@nox.session(python=list(FOUND))
@nox.parametrize("backend", ["fast", "pure"])
def tests(session, backend):
    """Run the whole suite with one interpreter, end-to-end tests on one backend."""
    switch = {"NETCORE_PURE": "0" if backend == "fast" else "1"}
    session.install("-e", ".[test]", env={"NETCORE_PURE": "0"})
    # The wheel does not depend on the backend that builds it; once per interpreter is enough.
    marker = [] if backend == "fast" else ["-m", "not packaging"]
    session.run("python", "-m", "pytest", *marker, *session.posargs, env=switch)


@nox.session
def lint(session):
    """Check style and types as CI does."""
    session.install("-e", ".[dev]", env={"NETCORE_PURE": "0"})
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "netcore/_fast")
    session.run("mypy")
