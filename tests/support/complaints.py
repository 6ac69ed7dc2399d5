"""What a process wrote to stderr, without what only a loaded machine makes it write."""

from __future__ import annotations


def complaints(stderr: str) -> str:
    """Return the text without lines about slow hooks: they time the machine as well."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "; slow_hook_ms is " not in line)
