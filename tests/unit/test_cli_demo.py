"""What the demo is made of, without its processes: accounting, records, ledger, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from netcore.cli.demo_accounting import Kill, NodeCount, Verdict, account
from netcore.cli.demo_ledger import Ledger
from netcore.cli.demo_records import (
    Event,
    Explained,
    Linked,
    Listening,
    Received,
    Report,
    RoundTrip,
    Sent,
    decode_event,
    decode_stamp,
    encode_event,
    encode_stamp,
)
from netcore.cli.demo_table import drop_reasons, hops_text, node_table, picture, round_trips, sums
from netcore.stats import SWITCH_COUNTERS

# -- accounting ----------------------------------------------------------------------------------
#
# Node 1 sent three messages to node 3 over node 2, which was killed: the first arrived, the second
# was dropped by node 1 when the link closed, the third was inside of node 2.

SENT = [
    Sent(1, 1, "node", (3,), (2, 3), 100),
    Sent(1, 2, "node", (3,), (2, 3), 1_000),
    Sent(1, 3, "call", (3,), (2, 3), 1_100),
]
RECEIVED = [Received(1, 1, 3, 2, 200)]
COUNTS = [
    NodeCount(node_id=1, sent=3, delivered=0, dropped=1),
    NodeCount(node_id=2, sent=0, delivered=0, relayed=1),
    NodeCount(node_id=3, sent=0, delivered=1),
]
KILL = Kill(node_id=2, from_us=900, until_us=2_000)


def judge(
    counts: list[NodeCount] = COUNTS,
    sent: list[Sent] = SENT,
    received: list[Received] = RECEIVED,
    kill: Kill | None = KILL,
) -> Verdict:
    return account(counts, sent, received, kill)


def test_account_of_true_counts_agrees() -> None:
    verdict = judge()
    assert verdict.problems == ()
    assert verdict.ok
    assert (verdict.sent, verdict.delivered, verdict.dropped, verdict.lost) == (3, 1, 1, 1)


def test_account_without_a_kill_and_without_loss_agrees() -> None:
    received = [Received(1, number, 3, 2, 200) for number in (1, 2, 3)]
    counts = [replace(COUNTS[0], dropped=0), COUNTS[1], replace(COUNTS[2], delivered=3)]
    assert judge(counts, SENT, received, None).problems == ()


@pytest.mark.parametrize(
    ("node", "change", "problem"),
    [
        (0, {"sent": 4}, "node 1 counts 4 sent, but wrote 3 down"),
        (0, {"sent": 2}, "node 1 counts 2 sent, but wrote 3 down"),
        (2, {"delivered": 2}, "node 3 counts 2 delivered, but 1 arrived"),
        (2, {"delivered": 0}, "node 3 counts 0 delivered, but 1 arrived"),
        (1, {"delivered": 1}, "node 2 counts 1 delivered, but 0 arrived"),
        (2, {"dropped": 2}, "3 drops were counted, but only 2 messages miss"),
        (2, {"hook_errors": 1}, "node 3: 1 hooks raised"),
        (0, {"answers_late": 1}, "node 1: 1 answers came after the caller had given up"),
    ],
)
def test_account_of_a_falsified_count_names_it(
    node: int, change: dict[str, int], problem: str
) -> None:
    counts = [replace(count, **change) if i == node else count for i, count in enumerate(COUNTS)]
    verdict = judge(counts)
    assert problem in verdict.problems
    assert not verdict.ok


def test_account_of_a_message_that_arrived_twice_names_it() -> None:
    counts = [*COUNTS[:2], replace(COUNTS[2], delivered=2)]
    assert judge(counts, received=RECEIVED * 2).problems == ("message 1/1 arrived 2 times",)


def test_account_of_a_message_nobody_sent_names_it() -> None:
    counts = [*COUNTS[:2], replace(COUNTS[2], delivered=2)]
    received = [*RECEIVED, Received(1, 9, 3, 2, 200)]
    expected = "message 1/9 arrived at node 3, but was never sent"
    assert judge(counts, received=received).problems == (expected,)


def test_account_of_a_message_that_went_astray_names_it() -> None:
    counts = [COUNTS[0], replace(COUNTS[1], delivered=1), replace(COUNTS[2], delivered=0)]
    received = [Received(1, 1, 2, 1, 200)]
    expected = "message 1/1 for (3,) arrived at node 2"
    assert judge(counts, received=received).problems == (expected,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"at_us": 100}, "too early for the kill"),
        ({"at_us": 3_000}, "after routes had healed"),
        ({"path": (4, 3)}, "its path did not lead over node 2"),
        ({"path": ()}, "its path did not lead over node 2"),
    ],
)
def test_account_of_a_loss_that_the_kill_does_not_explain_says_why(
    change: dict[str, object], reason: str
) -> None:
    lost = SENT[2]._replace(**change)  # type: ignore[arg-type]
    (problem,) = judge(sent=[*SENT[:2], lost]).problems
    assert problem.startswith("message 1/3 by call for (3,)")
    assert problem.endswith(reason)


def test_account_of_a_loss_without_a_kill_is_a_problem() -> None:
    problems = judge(kill=None).problems
    assert "1 messages vanished without a counter" in problems
    assert sum(problem.endswith("no node was killed") for problem in problems) == 2


def test_account_of_a_node_without_counters_names_it() -> None:
    assert judge(COUNTS[:2]).problems == ("node 3 gave no counters",)


def test_account_spells_out_a_few_problems_of_a_kind_only() -> None:
    sent = [Sent(1, number, "node", (3,), (2, 3), 100) for number in range(1, 11)]
    counts = [replace(COUNTS[0], sent=10), *COUNTS[1:]]
    problems = judge(counts, sent).problems
    assert problems[-1] == "... and 6 more like that"
    assert len(problems) == 4


# -- records -------------------------------------------------------------------------------------

REPORT = Report(
    asked=3,
    at_us=7,
    refused=1,
    stats=dict.fromkeys(SWITCH_COUNTERS, 0)
    | {"hook_errors": 0, "answers_late": 0, "calls_pending": 0},
    peers=(2,),
    paths={2: (2,), 3: (2, 3)},
    services={10: (), 20: (2, 3)},
    sent=(SENT[0], SENT[1]),
    received=(Received(3, 1, 1, None, 5), Received(1, 4, 1, 0, 6)),
    round_trips=(RoundTrip(3, 2, 1_500),),
)


@pytest.mark.parametrize(
    "event",
    [
        Listening("1@/memory/a", "/somewhere"),
        Linked(2, True, 5),
        Explained(3, ("node 3: over node 2, score 12", "  over 2: 2 ms, score 12: best")),
        Explained(3, ()),
        REPORT,
    ],
    ids=str,
)
def test_event_survives_its_line(event: Event) -> None:
    line = encode_event(event)
    assert "\n" not in line
    assert decode_event(line) == event


@pytest.mark.parametrize(
    "line", ["", "hello", "[]", "{}", '{"Linked":{}}', '{"Other":{"a":1}}', "{"]
)
def test_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not an event of the demo"):
        decode_event(line)


def test_stamp_is_eight_bytes_big_endian() -> None:
    assert encode_stamp(1, 258).hex() == "0000000100000102"
    assert decode_stamp(bytes.fromhex("0000000100000102")) == (1, 258)


# -- ledger --------------------------------------------------------------------------------------


def report(change: Callable[[Report], Report] = lambda r: r) -> Report:
    return change(REPORT._replace(sent=(), received=(), round_trips=()))


def test_ledger_misses_what_was_sent_until_it_arrives() -> None:
    ledger = Ledger()
    ledger.take(1, REPORT._replace(received=()))
    assert ledger.missing() == SENT[:2]
    ledger.take(3, report(lambda r: r._replace(received=(Received(1, 1, 3, 2, 9),))))
    assert ledger.missing() == SENT[1:2]


def test_ledger_takes_an_arrival_before_its_sender_reported() -> None:
    ledger = Ledger()
    ledger.take(3, report(lambda r: r._replace(received=(Received(1, 1, 3, 2, 9),))))
    ledger.take(1, REPORT._replace(received=()))
    assert ledger.missing() == SENT[1:2]


def test_ledger_finds_what_is_missing_from_or_for_one_node() -> None:
    ledger = Ledger()
    ledger.take(1, REPORT._replace(received=()))
    assert (ledger.missing(1), ledger.missing(2), ledger.missing(3)) == (SENT[:2], [], SENT[:2])


def test_ledger_knows_the_flows_over_a_relay() -> None:
    ledger = Ledger()
    ledger.take(1, REPORT)
    assert ledger.flows_over(2, [1, 2, 3]) == [(1, 3)]
    assert ledger.flows_over(3, [1, 2, 3]) == []


def test_ledger_knows_whether_all_ways_avoid_a_node() -> None:
    ledger = Ledger()
    ledger.take(1, report())
    ledger.take(3, report(lambda r: r._replace(paths={1: (4, 1)})))
    assert not ledger.knows_all_ways([1, 3], without=2)
    ledger.take(1, report(lambda r: r._replace(paths={3: (4, 3)})))
    assert ledger.knows_all_ways([1, 3], without=2)
    assert not ledger.knows_all_ways([1, 2, 3])


def test_ledger_counts_a_link_when_both_ends_say_so() -> None:
    ledger = Ledger()
    ledger.take(1, report())
    assert ledger.links_now() == set()
    ledger.take(2, report(lambda r: r._replace(peers=(1,))))
    assert ledger.links_now() == {(1, 2)}


def test_ledger_finds_the_longest_silence_of_a_flow() -> None:
    ledger = Ledger()
    arrivals = tuple(Received(1, n, 3, 2, at) for n, at in enumerate((10, 20, 70, 75, 500)))
    ledger.take(3, report(lambda r: r._replace(received=arrivals)))
    assert ledger.longest_silence_us(1, 3, 0, 100) == 50
    assert ledger.longest_silence_us(2, 3, 0, 100) == 0


def test_ledger_sums_the_drops_of_a_node() -> None:
    stats = REPORT.stats | {"dropped_returned": 2, "dropped_no_route": 1, "messages_sent": 9}
    ledger = Ledger()
    ledger.take(1, REPORT._replace(stats=stats))
    assert ledger.counts() == [NodeCount(node_id=1, sent=9, delivered=0, dropped=3, refused=1)]
    assert ledger.drops() == {(1, "dropped_no_route"): 1, (1, "dropped_returned"): 2}


# -- tables --------------------------------------------------------------------------------------


def test_picture_shows_links_shortcuts_and_the_dead() -> None:
    links = {(1, 2), (3, 4), (1, 4)}
    assert picture([1, 2, 3, 4], links, dead=[3]) == [
        "1 --- 2     x --- 4",
        "+-----------------+",
    ]


def test_node_table_lines_up_and_sums() -> None:
    assert node_table(COUNTS, dead=[2]) == [
        "node        sent  delivered    relayed    dropped    refused",
        "   1           3          0          0          1          0",
        "   2*          0          0          1          0          0",
        "   3           0          1          0          0          0",
        "all            3          1          1          1          0",
    ]


def test_round_trips_are_medians_by_hops() -> None:
    samples = {(1, 2): [1_000, 9_000, 2_000], (1, 1): [500], (2, 1): [7]}
    assert round_trips(samples, 1) == "1 hop 0.50 ms, 2 hops 2.00 ms"
    assert round_trips(samples, 3) == "none yet"


@pytest.mark.parametrize(("hops", "text"), [(1, "1 hop"), (2, "2 hops"), (0, "0 hops")])
def test_hops_are_counted_in_english(hops: int, text: str) -> None:
    assert hops_text(hops) == text


def test_sums_name_the_killed_node() -> None:
    assert sums(judge(), 2) == "sent 3 = delivered 1 + dropped 1 + lost with node 2: 1"
    assert sums(judge(), None) == "sent 3 = delivered 1 + dropped 1"


def test_drop_reasons_are_words() -> None:
    drops = {(4, "dropped_link_closed"): 3, (5, "dropped_returned"): 1}
    assert drop_reasons(drops) == "3 link closed at node 4, 1 returned at node 5"
