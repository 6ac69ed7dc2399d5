"""Wrong types, half-built objects and evil subclasses for every argument: errors, never a crash."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from netcore._backend import BackendName
from support.source_tree import REPO
from tools.fuzz.rig import Rig

PROGRAM = REPO / "tests" / "support" / "hostile.py"
DEADLINE_S = 120


def test_every_argument_of_every_class_may_be_anything(
    backend: BackendName, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    # A process of its own: a crash shall be a failure that names the call.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), backend, str(note)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_S,
        check=False,
    )
    called = note.read_bytes().partition(b"\n")[0].decode("utf-8", "replace")
    assert done.returncode == 0, f"{called}\n{done.stdout}\n{done.stderr}"
    found = re.search(r"^(\d+) calls, 0 wrong errors$", done.stdout, re.M)
    assert found, done.stdout
    assert int(found[1]) > 5_000


def test_link_without_a_switch_cannot_be_made_and_leaves_stdin_open(backend: BackendName) -> None:
    """A constructor that failed before it ran gave descriptor 0 back, which was not its own."""
    code = (
        "import os; from netcore import _backend; "
        f"kernels = _backend.load({backend!r})\n"
        "try:\n    kernels.Connection()\nexcept TypeError:\n    os.fstat(0)"
    )
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=True, cwd=REPO)


@pytest.mark.parametrize(
    "name",
    [
        "BroadcastDesk",
        "CallDesk",
        "Connection",
        "DuplicateFilter",
        "FrameSplitter",
        "Port",
        "Records",
        "RouteTable",
        "Switch",
        "Vitals",
    ],
)
def test_compiled_class_has_no_half_built_objects(name: str) -> None:
    fast = pytest.importorskip("netcore._fast", exc_type=ModuleNotFoundError)
    cls = getattr(fast, name)
    with pytest.raises(TypeError):
        cls.__new__(cls)


def test_filter_for_no_origins_is_refused(kernels: ModuleType) -> None:
    """It crashed the compiled one, which looked for a window to forget where there was none."""
    with pytest.raises(ValueError, match="1 or more"):
        kernels.DuplicateFilter(0)


def test_call_of_a_message_that_no_constructor_made_is_refused(kernels: ModuleType) -> None:
    """The compiled desk read the payload that was not there."""
    from support.calls import DeskRig

    with DeskRig(kernels) as rig, pytest.raises((TypeError, AttributeError)):
        rig.desk.on_call(kernels.Message.__new__(kernels.Message))


def test_randomness_of_the_wrong_length_is_refused() -> None:
    """The compiled desk read call ids behind its end."""
    from support.calls import DeskRig

    class Short:
        def randbytes(self, n: int) -> bytes:
            return b"short"

    fast = pytest.importorskip("netcore._fast", exc_type=ModuleNotFoundError)
    with DeskRig(fast, rng=Short()) as rig, pytest.raises(ValueError, match="something else"):
        rig.call()


@pytest.mark.parametrize("service", [-1, 256, 1 << 70, None, "1"])
def test_behavior_of_an_impossible_service_is_refused(kernels: ModuleType, service: object) -> None:
    """-1 was service 255, and 256 an IndexError."""
    from support.calls import DeskRig

    with DeskRig(kernels) as rig:
        for owner in (rig.switch, rig.desk):
            with pytest.raises(ValueError, match="service id"):
                owner.set_behavior(service, print)


def test_text_of_an_error_that_is_no_text_is_refused(kernels: ModuleType) -> None:
    """It was an AttributeError about a method of text."""
    with pytest.raises(TypeError, match="text must be str, not int"):
        kernels.RpcAnswer().error(1_000, 7)


def test_compiled_link_refuses_what_is_no_socket() -> None:
    """It was an AttributeError about a method of sockets."""
    fast = pytest.importorskip("netcore._fast", exc_type=ModuleNotFoundError)
    with pytest.raises(TypeError, match="sock must be a socket, not bool"):
        Rig(fast).switch.add_connection(3 << 16, 1, sock=True)


def test_silence_of_impossible_times_does_not_wrap_around() -> None:
    """The difference of two of them overflowed, which C does not define."""
    fast = pytest.importorskip("netcore._fast", exc_type=ModuleNotFoundError)
    vitals = fast.Vitals(1, 2, 0)
    with pytest.raises(OverflowError):
        vitals.silence_ms(0, (1 << 63) - 1, -1)
    assert vitals.silence_ms(0, 5, 0) == 5
