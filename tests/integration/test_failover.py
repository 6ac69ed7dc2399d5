"""The fail-over measurement works: networks of processes heal. No time is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.failover.__main__ import is_wanted, main
from tools.failover.calm import Run
from tools.failover.contenders import CONTENDERS
from tools.failover.layout import DIAMOND
from tools.failover.trial import FAULTS, HIT_NOTHING, Record, Trial
from tools.netlab import Shape, why_not

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def heal(fault: str, *, isolated: bool) -> Record:
    """Return what a diamond of netcore nodes made of a fault."""
    # On a busy machine traffic may have left the victim just before: that trial says nothing.
    for number in range(4):
        record = Trial(CONTENDERS["netcore"], DIAMOND, FAULTS[fault], number, isolated).run()
        if HIT_NOTHING not in record.error:
            break
    assert record.error == ""
    assert record.recovered
    assert record.again == 0
    assert record.ms > 0
    return record


@pytest.mark.parametrize("fault", ["kill", "restart"])
def test_messages_flow_again_after_a_relay_died(fault: str) -> None:
    heal(fault, isolated=False)


def test_messages_flow_again_after_a_link_was_dropped_silently() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    heal("drop", isolated=True)


def test_nothing_is_lost_over_links_with_loss() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Run(Shape(latency_ms=2, jitter_ms=1, loss=0.02), rate=200) as run:
        run.begin()
        run.wait_for(200)
        outcome = run.end()
    assert outcome.is_calm
    assert outcome.sent >= 200
    assert outcome.packets_lost > 0


def test_command_measures_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", str(tmp_path), "--repetitions", "2", "--date", "a day"]
    only = ["--only", "netcore/diamond/kill"]
    assert main([*options, *only, "--seconds", "0"]) == 0  # begins nothing: both are missing
    assert "2 repetitions are still missing" in capsys.readouterr().err
    text = (tmp_path / "failover.md").read_text("utf-8")
    assert text.startswith("# Fail-over, a day\n")


def test_patterns_choose_cases_from_the_left() -> None:
    case = ("netcore", "ring", "kill")
    assert is_wanted(case, [])
    assert is_wanted(case, ["netcore"])
    assert is_wanted(case, ["zenoh", "*/ring"])
    assert not is_wanted(case, ["*/*/stop", "NATS"])
