"""What was announced over a link, as its two ends keep it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import xxhash

from .. import wire
from .._typing import final
from ..choices import Hop
from .sync_wire import Delta, Digest, Full, Lost, makes_hop

__all__ = ["EntrySet", "Inbox"]


@final
class EntrySet:
    """What was announced over a link, with its digest kept up to date.

    Attributes:
        entries: Place -> entry as bytes; change it by ``apply`` only.
        digest: 64 bits.
    """

    __slots__ = ("digest", "entries")

    def __init__(self) -> None:
        self.entries: dict[int, bytes] = {}
        self.digest = 0

    def apply(self, changes: Mapping[int, bytes | None]) -> None:
        """Take in changed entries and, as None, withdrawals."""
        for place, entry in changes.items():
            before = self.entries.pop(place, None)
            if before is not None:
                self.digest ^= xxhash.xxh3_64_intdigest(before)
            if entry is not None:
                self.entries[place] = entry
                self.digest ^= xxhash.xxh3_64_intdigest(entry)

    def changes_to(self, entries: Mapping[int, bytes]) -> dict[int, bytes | None]:
        """Return what ``apply`` needs to make this set hold exactly these entries."""
        changes: dict[int, bytes | None] = {p: None for p in self.entries if p not in entries}
        changes.update((p, e) for p, e in entries.items() if self.entries.get(p) != e)
        return changes

    def making(self, hops: Iterable[Hop], sender: int) -> list[int]:
        """Return the places whose entries, announced by ``sender``, make one of these hops."""
        return [
            place
            for place, entry in self.entries.items()
            if any(makes_hop(entry, hop, sender) for hop in hops)
        ]


@final
class Inbox:
    """What the neighbour has announced on this link."""

    __slots__ = ("_pieces", "_seq", "is_synced", "known")

    def __init__(self) -> None:
        self.known = EntrySet()
        self.is_synced = False
        self._seq: int | None = None
        self._pieces: dict[int, bytes] | None = None

    def forget(self) -> None:
        """Know nothing; what comes is believed from the next full state on."""
        self.known = EntrySet()
        self.suspend()

    def suspend(self) -> None:
        """Keep what is known; what comes is believed from the next full state on."""
        self.is_synced = False
        self._pieces = None

    def forget_hops(self, hops: Iterable[Hop], sender: int) -> dict[int, bytes | None]:
        """Know no entry any more that makes one of these hops; return what changes."""
        changes: dict[int, bytes | None] = dict.fromkeys(self.known.making(hops, sender))
        self.known.apply(changes)
        return changes

    def take_full(self, message: Full) -> dict[int, bytes | None]:
        """Take a piece in, and return what changes with it."""
        if message.is_first:
            if self._is_old(message.seq):
                return {}
            self._pieces = {}
        elif self._pieces is None or not self._is_next(message.seq):
            self._pieces = None
            self.is_synced = False
            return {}
        self._seq = message.seq
        self._pieces.update(message.entries)
        if not message.is_last:
            return {}
        changes = self.known.changes_to(self._pieces)
        self.known.apply(changes)
        self._pieces = None
        self.is_synced = True
        return changes

    def take_delta(self, message: Delta) -> dict[int, bytes | None]:
        """Return what changes; nothing when the message is a repetition or out of order."""
        if not self._follows(message.seq):
            return {}
        self.known.apply(message.entries)
        return message.entries

    def take_lost(self, message: Lost, sender: int) -> dict[int, bytes | None] | None:
        """Return what changes; None when the message is a repetition or out of order.

        What it withdraws is withdrawn even if messages before it are missing: it can only be true.
        """
        if self._is_old(message.seq):
            return None
        changes: dict[int, bytes | None] = dict.fromkeys(self.known.making(message.losses, sender))
        if self._follows(message.seq):
            changes.update(message.entries)
        self.known.apply(changes)
        return changes

    def take_digest(self, message: Digest) -> bool:
        """Return False when the neighbour has announced something else than is known."""
        if self._follows(message.seq) and message.value != self.known.digest:
            self.is_synced = False
            return False
        return True

    def _follows(self, seq: int) -> bool:
        if self._is_old(seq):
            return False
        self.is_synced = self.is_synced and self._is_next(seq)
        if self.is_synced:
            self._seq = seq
        return self.is_synced

    def _is_old(self, seq: int) -> bool:
        return self._seq is not None and (self._seq - seq & wire.MAX_U32) < 1 << 31

    def _is_next(self, seq: int) -> bool:
        return self._seq is not None and (self._seq + 1 & wire.MAX_U32) == seq
