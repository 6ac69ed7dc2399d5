"""The file of all figures: it grows from run to run until every case has its repetitions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tools.bench import machine

from .contenders import CONTENDERS
from .trial import Record

__all__ = ["Case", "Results"]

#: (system, layout, fault).
Case = tuple[str, str, str]
_NO_RECORDS: Final[Mapping[str, Any]] = {"records": [], "failures": [], "calm": []}


class Results:
    """What was measured, here and in the runs before.

    Args:
        path: The file; it need not be there.
        fresh: Forget what is in it.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        known = not fresh and path.exists()
        data = json.loads(path.read_text(encoding="utf-8")) if known else _NO_RECORDS
        self.records = [
            Record(**{**entry, "gaps": [(a, b) for a, b in entry["gaps"]]})
            for entry in data["records"]
        ]
        self.failures: list[dict[str, Any]] = list(data["failures"])
        self.calm: list[dict[str, Any]] = list(data["calm"])
        self.systems: dict[str, str] = dict(data.get("systems", {}))
        self.note: str = data.get("note", "")

    def missing(self, case: Case, repetitions: int) -> list[int]:
        """Return the repetitions that a case still lacks."""
        there = {record.repetition for record in self.of(case)}
        return [number for number in range(repetitions) if number not in there]

    def of(self, case: Case) -> list[Record]:
        """Return the records of a case."""
        return [r for r in self.records if (r.system, r.layout, r.fault) == case]

    def add(self, record: Record) -> None:
        """Take a record in and save; one without figures is kept as a failure."""
        if record.error:
            self.failures.append(record.as_dict())
        else:
            self.records.append(record)
        self.systems.setdefault(record.system, CONTENDERS[record.system].version)
        self.save()

    def set_calm(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Replace the figures of the long run with loss, and save."""
        self.calm = [dict(outcome) for outcome in outcomes]
        self.save()

    def save(self) -> None:
        """Write the file: a line for each record."""
        order = {name: at for at, name in enumerate(CONTENDERS)}
        self.records.sort(key=lambda r: (order[r.system], r.layout, r.fault, r.repetition))
        lines = ",\n".join(json.dumps(record.as_dict()) for record in self.records)
        rest = {
            "date": datetime.date.today().isoformat(),
            "machine": machine.describe(),
            "systems": self.systems,
            "note": self.note,
            "failures": self.failures,
            "calm": self.calm,
        }
        text = f'{json.dumps(rest)[:-1]}, "records": [\n{lines}\n]}}\n'
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(text, encoding="utf-8")
