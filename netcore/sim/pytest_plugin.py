"""A pytest plugin: the fixture ``netcore_sim``, a simulated network with a seed.

pytest finds it by itself where netcore is installed, and is not needed by anything else here.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator, Mapping

import pytest

from .._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .network import Network

__all__ = ["netcore_seed", "netcore_sim"]

_MARKER = (
    "netcore_sim(seeds=(0,), allow_hook_errors=False, **options): seeds to run the test with, and "
    "options of netcore.sim.Network, for the fixture netcore_sim"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer seeds on the command line."""
    group = parser.getgroup("netcore")
    group.addoption(
        "--netcore-seed", type=int, metavar="N", help="run simulated networks with this seed only"
    )
    group.addoption(
        "--netcore-seeds", type=int, metavar="N", help="run simulated networks with seeds 0..N-1"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per seed. Also a single one is in its name, so that names can be replayed."""
    if "netcore_seed" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("netcore_sim")
        seeds = _seeds(metafunc.config, {} if marker is None else marker.kwargs)
        metafunc.parametrize("netcore_seed", seeds, indirect=True, ids=lambda seed: f"seed{seed}")


def _seeds(config: pytest.Config, options: Mapping[str, Any]) -> list[int]:
    one, many = config.getoption("--netcore-seed"), config.getoption("--netcore-seeds")
    if one is not None:
        return [one]
    return list(options.get("seeds", (0,)) if many is None else range(many))


@pytest.fixture
def netcore_seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of this run."""
    seed: int = request.param
    return seed


@pytest.fixture
def netcore_sim(request: pytest.FixtureRequest, netcore_seed: int) -> Iterator[Network]:
    """Give an empty simulated network; a hook error in it fails the test."""
    from .network import Network  # not before somebody wants one

    marker = request.node.get_closest_marker("netcore_sim")
    options = {} if marker is None else dict(marker.kwargs)
    options.pop("seeds", None)
    allow_hook_errors = options.pop("allow_hook_errors", False)
    network = Network(netcore_seed, **options)
    network.allow_hook_errors = allow_hook_errors
    yield network
    network.close()
    network.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say how to run a failed test again."""
    report = yield
    seed = getattr(item, "funcargs", {}).get("netcore_seed")
    if report.failed and seed is not None:
        line = f"pytest {shlex.quote(item.nodeid)} --netcore-seed={seed}"
        report.sections.append(("netcore: to replay", line))
    return report
