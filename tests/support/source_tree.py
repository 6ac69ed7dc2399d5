"""The project's own files, for the tests in tests/meta that read instead of run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "netcore"
FAST = PACKAGE / "_fast"

#: What tools leave in the tree; nothing in it is ours.
_FOREIGN = {".git", ".venv", "venv", "build", "dist", "node_modules", "__pycache__"}


def files(*suffixes: str, under: Path = REPO) -> list[Path]:
    """Return the project's files that end so, sorted."""
    return sorted(path for path in _walk(under) if path.name.endswith(suffixes))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            hidden = path.name.startswith(".") and path.name != ".ci"
            if not hidden and path.name not in _FOREIGN and not path.name.endswith(".egg-info"):
                yield from _walk(path)
        else:
            yield path


def module_name(path: Path) -> str:
    """Return the dotted name of a file below the repository: netcore/ids.py -> netcore.ids."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Return name -> file of every Python module of the package."""
    return {module_name(path): path for path in files(".py", under=PACKAGE)}


@cache
def syntax(path: Path) -> ast.Module:
    """Return the parsed file."""
    return ast.parse(path.read_text("utf-8"), str(path))


def strip_cython(text: str) -> str:
    """Blank out the comments and strings of Cython source; lines keep their numbers."""
    out: list[str] = []
    at = 0
    while at < len(text):
        end = _end_of_quiet(text, at)
        if end == at:
            out.append(text[at])
            at += 1
        else:
            out.append("\n" * text.count("\n", at, end))
            at = end
    return "".join(out)


def _end_of_quiet(text: str, at: int) -> int:
    """Return where the comment or string that starts at ``at`` ends, or ``at`` for neither."""
    if text[at] == "#":
        end = text.find("\n", at)
        return len(text) if end < 0 else end
    if text[at] not in "'\"":
        return at
    quote = text[at] * 3 if text.startswith(text[at] * 3, at) else text[at]
    end = at + len(quote)
    while end < len(text) and not text.startswith(quote, end):
        end += 2 if text[end] == "\\" else 1
    return min(end + len(quote), len(text))
