"""Files with inputs: the seeds in tests/corpus, and what a run has found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "corpus"
SESSION_MAGIC = b"netcore fuzz session\n"


def load_corpus(name: str) -> list[bytes]:
    """Return the seeds of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def write_corpus(name: str, seeds: Sequence[bytes], folder: Path = CORPUS) -> None:
    """Make the files of a target's seeds anew, and leave those that were added by hand."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for path in (folder / name).glob("seed-*"):
        path.unlink()
    for number, seed in enumerate(seeds):
        (folder / name / f"seed-{number:02}").write_bytes(seed)


def write_crash(name: str, data: bytes, folder: Path) -> Path:
    """Write what led to an error; return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def session_bytes(inputs: Sequence[bytes]) -> bytes:
    """Return the inputs of a session as one file."""
    return SESSION_MAGIC + b"".join(map(session_part, inputs))


def session_part(data: bytes) -> bytes:
    """Return one input as a session's file has it."""
    return len(data).to_bytes(4, "big") + data


def read_session(data: bytes) -> list[bytes] | None:
    """Return the inputs of a session, None when the file is one input."""
    if not data.startswith(SESSION_MAGIC):
        return None
    inputs, at = [], len(SESSION_MAGIC)
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        inputs.append(data[at + 4 : end])
        at = end
    return inputs
