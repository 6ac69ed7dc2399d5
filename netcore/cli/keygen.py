"""``netcore keygen``: a new secret for the nodes of one network."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from . import CommandError

__all__ = ["run_keygen"]

#: As long as the output of SHA-256, which everything is derived with.
SECRET_BYTES: Final = 32


def run_keygen(out: Path | None) -> int:
    """Print a secret as one line of hex digits, or put it into a new file.

    Args:
        out: The file, readable for its owner only; None: print.

    Raises:
        CommandError: The file exists already, or cannot be written.
    """
    secret = secrets.token_hex(SECRET_BYTES)
    if out is None:
        print(secret)
        return 0
    try:
        # O_EXCL: an existing secret is never overwritten, not even by two commands at once.
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f"{out} exists already: delete it first, or choose another") from None
    except OSError as exc:
        raise CommandError(f"cannot write {out}: {exc.strerror}") from None
    with open(fd, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    print(f"a new secret is in {out}")
    return 0
