"""Random networks under random faults, on virtual time; more by ``python -m tools.sim``."""

from __future__ import annotations

import os

import pytest

from netcore import BACKEND
from support.backends import fast_is_built
from tools.sim.__main__ import main
from tools.sim.plants import PLANTS
from tools.sim.runner import Backend, Job, format_numbers, parse_numbers, run_all, run_job
from tools.sim.scenario import Kind
from tools.sim.shrink import shrink

#: A second pass on purpose, of a tree that has compiled kernels: some seeds are enough there.
IS_SECOND = os.environ.get("NETCORE_PURE") == "1" and fast_is_built()
SEEDS = 200
NODES = 6  # at most; a longer campaign by hand has more
PIECE = 25  # seeds of one test, so that none of them takes minutes
FEW = 10

first_pass_only = pytest.mark.skipif(IS_SECOND, reason="plants are pure: the first pass did this")


@pytest.mark.skipif(IS_SECOND, reason="a few seeds are enough in the second pass")
@pytest.mark.parametrize("first", range(0, SEEDS, PIECE))
@pytest.mark.parametrize("kind", ["safety", "liveness"])
def test_campaign_over_random_networks_finds_nothing(kind: Kind, first: int) -> None:
    check_campaign(kind, "fast" if BACKEND == "fast" else "pure", range(first, first + PIECE))


@pytest.mark.parametrize("kind", ["safety", "liveness"])
def test_campaign_on_the_pure_backend_finds_nothing(kind: Kind) -> None:
    check_campaign(kind, "pure", range(SEEDS, SEEDS + FEW))


def check_campaign(kind: Kind, backend: Backend, seeds: range) -> None:
    jobs = [Job(kind, seed, backend, NODES) for seed in seeds]
    processes = min(4, len(os.sched_getaffinity(0)))
    outcomes = list(run_all(jobs, processes, lambda: False))
    failed = {outcome.seed: outcome for outcome in outcomes if outcome.kind}
    said = [
        f"{failed[j.seed].kind}: {failed[j.seed].text}: {j.command()}"
        for j in jobs
        if j.seed in failed
    ]
    assert said == []
    assert len(outcomes) == len(seeds)
    assert sum(outcome.delivered for outcome in outcomes) > 10 * len(seeds)


def find(kind: Kind, plant: str, nodes: int = NODES) -> Job | None:
    """Return the first seed that finds a bug."""
    for seed in range(SEEDS):
        job = Job(kind, seed, "pure", nodes, plant)
        if run_job(job).kind:
            return job
    return None


#: What finds it: the kind of the violation that the first seed may end with.
FOUND_BY: dict[str, tuple[Kind, set[str]]] = {
    "skip-clear": ("safety", {"next-hop"}),
    "skip-split-horizon": ("safety", {"refused"}),
    "forget-ttl": ("safety", {"hops", "visits"}),
    "forget-drop": ("safety", {"account"}),
    "overtake": ("safety", {"fifo"}),
    "stale-metric": ("liveness", {"tables"}),
    "hear-twice": ("safety", {"broadcast"}),
    "many-calls": ("safety", {"bounds"}),
}


def test_each_plant_is_looked_for() -> None:
    assert FOUND_BY.keys() == set(filter(None, PLANTS))


@first_pass_only
@pytest.mark.parametrize("plant", FOUND_BY)
def test_campaign_finds_a_planted_bug(plant: str) -> None:
    kind, kinds = FOUND_BY[plant]
    job = find(kind, plant)
    assert job is not None
    assert run_job(job).kind in kinds


@first_pass_only
def test_shrink_leaves_few_operations_that_fail_alike() -> None:
    job = find("safety", "skip-split-horizon", nodes=3)
    assert job is not None
    small = shrink(job)
    assert run_job(small).kind == run_job(job).kind
    names = [name for _, name, _ in small.scenario.operations]
    assert "do" not in names  # no traffic: the announcements do it alone
    assert len(names) <= 5


def test_shrink_of_a_seed_that_holds_returns_it() -> None:
    job = Job("safety", 0, "pure", nodes=2)
    assert shrink(job) is job


@first_pass_only
def test_seed_that_fails_says_how_to_run_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    job = find("safety", "skip-split-horizon")
    assert job is not None
    words = job.command().split()
    assert words[:3] == ["python", "-m", "tools.sim"]
    assert main(words[3:]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"seed {job.seed}: refused: ")
    assert said[1].strip() == job.command()


def test_speed_says_how_fast_time_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "heartbeats", "--backend", "pure", "--nodes", "3", "--seconds", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("heartbeats pure     3 nodes     3 links")
    assert "x real time" in said


def test_seed_run_twice_ends_alike() -> None:
    job = Job("liveness", 3, "pure")
    assert run_job(job) == run_job(job)


@pytest.mark.skipif(BACKEND != "fast", reason="the kernels are not built")
def test_seed_ends_alike_on_both_backends() -> None:
    for seed in range(5):
        assert run_job(Job("safety", seed, "fast")) == run_job(Job("safety", seed, "pure"))


@pytest.mark.parametrize("numbers", [(), (7,), (0, 1, 2), (0, 1, 4, 6, 7)])
def test_numbers_of_operations_survive_the_command_line(numbers: tuple[int, ...]) -> None:
    assert parse_numbers(format_numbers(numbers)) == numbers
