"""Network: what faults do to real nodes, on both backends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import CallTimeout, LocalError, NetworkBehavior, RouteRule, SendQueueFullError
from netcore._backend import BackendName
from netcore.sim import Network, SimulationError, address_of, random_faults
from netcore.sim.topology import nth_id


class Echo(NetworkBehavior):
    """Keeps what it hears, and answers calls."""

    service_id = 10

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.writable = 0

    def on_message(self, agent: Any, message: Any) -> None:
        self.heard.append((agent.now_ms, message.payload))

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        res.ok(req.payload)
        return True

    def on_connection_writable(self, agent: Any, conn: Any) -> None:
        self.writable += 1


class Broken(NetworkBehavior):
    service_id = 11

    def on_message(self, agent: Any, message: Any) -> None:
        raise ZeroDivisionError("broken")


@pytest.fixture
def net(backend: BackendName) -> Iterator[Network]:
    with Network(seed=3, backend=backend) as network:
        yield network


def pair(net: Network, **link: Any) -> None:
    """Join nodes 1 and 2."""
    net.topology.line(2, [Echo], **link)
    net.settle()


def say(net: Network, text: bytes, a: int = 1, b: int = 2) -> None:
    net[a].agent(10).send_to_node(b, text)


def heard(net: Network, node_id: int = 2) -> list[bytes]:
    return [payload for _, payload in net.behavior(node_id, Echo).heard]


# -- links and time ------------------------------------------------------------------------------


def test_message_takes_the_latency_of_its_links(net: Network) -> None:
    net.topology.line(4, [Echo], latency_ms=30)
    net.settle()
    sent_ms = net.now_ms
    say(net, b"x", 1, 4)
    net.run(1_000)

    assert net.behavior(4, Echo).heard == [(sent_ms + 90, b"x")]
    assert net[1].connections[0].rtt_ms == 60


def test_link_again_changes_the_path_and_dials_no_more(net: Network) -> None:
    pair(net)
    link = net.link(1, 2, latency_ms=200)
    sent_ms = net.now_ms
    say(net, b"slow")
    net.run(1_000)

    assert net.behavior(2, Echo).heard == [(sent_ms + 200, b"slow")]
    assert link.dials == 1


def test_narrow_path_refuses_sends_and_tells_when_it_has_room(backend: BackendName) -> None:
    options: dict[str, Any] = {"write_high_bytes": 50_000, "write_low_bytes": 10_000}
    with Network(backend=backend, window_bytes=20_000, **options) as net:
        pair(net, bandwidth_kbps=800)  # 100 bytes per ms
        begin_ms = net.now_ms
        count = 0
        with contextlib.suppress(SendQueueFullError):
            while count < 1_000:
                say(net, bytes(1_000))
                count += 1
                net.run(1)
        net.run(10_000)

        assert count < 1_000

        assert len(heard(net)) == count
        last_ms = net.behavior(2, Echo).heard[-1][0]
        assert 10 * count <= last_ms - begin_ms <= 12 * count
        assert net.behavior(1, Echo).writable == 1


def test_jitter_and_loss_keep_the_order(net: Network) -> None:
    pair(net, latency_ms=5, jitter_ms=50, loss=0.3)
    texts = [b"%d" % number for number in range(200)]
    for text in texts:
        say(net, text)
        net.run(3)
    net.run(20_000)

    assert heard(net) == texts
    assert net.path(1, 2).resent > 10


def test_any_node_can_be_dialled_without_a_link(net: Network) -> None:
    net.add_node(1, [Echo])
    net.add_node(2, [Echo])
    net[1].connect(address_of(2))
    net.settle()
    say(net, b"hello")
    net.run(10)

    assert heard(net) == [b"hello"]
    assert net.links == ()


def test_dial_to_nobody_is_refused_after_a_round_trip(net: Network) -> None:
    net.add_node(1)
    net.add_node(2)
    net.kill(2)
    link = net.link(1, 2, latency_ms=20, redial_ms=None)
    net.run(39)
    assert link.is_dialing
    net.run(1)

    assert not link.is_dialing
    assert "nobody listens" in str(link.last_error)


def test_run_until_stops_at_once_and_says_how_long_it_took(net: Network) -> None:
    pair(net, latency_ms=7)
    say(net, b"x")

    assert net.run_until(lambda: heard(net)) == 7
    with pytest.raises(SimulationError, match="within 500 ms"):
        net.run_until(lambda: False, timeout_ms=500)


def test_call_drives_the_network(net: Network) -> None:
    pair(net, latency_ms=10)
    begin_ms = net.now_ms

    assert net.call(1, RouteRule.node(2), 10, b"ab") == b"ab"
    assert net.now_ms - begin_ms == 20
    net.freeze(2)
    with pytest.raises(CallTimeout):
        net.call(1, RouteRule.node(2), 10, b"ab", timeout_ms=300)


def test_waiting_in_real_time_is_refused(net: Network) -> None:
    pair(net)

    with pytest.raises(LocalError, match="real time"):
        net[1].call(RouteRule.node(2), 10, b"")
    with pytest.raises(LocalError, match="real time"):
        net[1].wait_connected(2)


# -- cuts ----------------------------------------------------------------------------------------


def test_short_cut_delays_and_loses_nothing(net: Network) -> None:
    pair(net, latency_ms=10)
    say(net, b"under way")
    net.run(5)
    net.cut(1, 2)
    say(net, b"in vain")
    net.run(1_000)
    assert heard(net) == []
    net.heal(1, 2)
    net.run(2_000)

    assert heard(net) == [b"under way", b"in vain"]
    assert net.links[0].dials == 1
    assert net.total("links_closed") == 0


def test_long_cut_ends_the_link_at_both_ends_and_it_comes_back(net: Network) -> None:
    pair(net)
    net.cut(1, 2)
    assert 10_000 <= net.settle() <= 13_000
    assert not net.links[0].is_up
    net.heal()
    net.settle()

    assert net.links[0].is_up
    assert net.total("links_closed") == 2


def test_one_way_cut_lets_the_other_direction_through(net: Network) -> None:
    pair(net)
    net.cut_one_way(1, 2)
    say(net, b"lost", 1, 2)
    say(net, b"heard", 2, 1)
    net.run(100)

    assert (heard(net, 1), heard(net, 2)) == ([b"heard"], [])
    assert (net.is_cut(1, 2), net.is_cut(2, 1)) == (True, False)
    net.settle()
    assert not net.links[0].is_up


def test_reset_breaks_the_link_which_is_dialled_again(net: Network) -> None:
    pair(net)
    net.reset(1, 2)
    net.run(10)
    assert not net.links[0].is_up
    net.settle()

    assert net.links[0].is_up
    assert net.links[0].dials == 2


# -- processes -----------------------------------------------------------------------------------


def test_killed_process_is_noticed_after_the_latency(net: Network) -> None:
    pair(net, latency_ms=20, redial_ms=None)
    net.kill(2)
    net.run(19)
    assert net[1].connections
    net.run(1)

    assert not net[1].connections
    with pytest.raises(LocalError, match="node 2 is not running"):
        net.node(2)


def test_silent_death_is_noticed_by_silence_only(net: Network) -> None:
    pair(net, redial_ms=None)
    net.kill(2, silent=True)
    net.run(5_000)
    assert net[1].connections
    net.run(6_000)

    assert not net[1].connections


def test_machine_that_is_on_again_resets_old_streams(net: Network) -> None:
    pair(net, redial_ms=None)
    net.kill(2, silent=True)
    net.run(1_000)
    net.restart(2)
    net.run(500)  # a ping is due

    assert not net[1].connections


def test_killed_node_runs_no_hook_and_its_agents_say_why(net: Network) -> None:
    pair(net)
    agent, node = net[2].agent(10), net[2]
    net.kill(2)

    assert node.closed
    with pytest.raises(LocalError, match="closed"):
        agent.send_to_node(1, b"")


def test_restart_makes_behaviors_anew_under_another_epoch(net: Network) -> None:
    pair(net)
    say(net, b"x")
    net.run(10)
    old = net[2]
    net.restart(2)
    net.settle()

    assert net.incarnation(2) == 1
    assert net[2] is not old
    assert heard(net) == []
    assert net[2]._host.identity.epoch != old._host.identity.epoch
    assert net.total("messages_delivered") == 1  # by the one before


def test_dial_of_a_dead_process_ends_with_it(net: Network) -> None:
    net.add_node(1, [Echo])
    net.add_node(2, [Echo])
    net.cut(1, 2)
    net.link(1, 2)
    net.run(100)
    net.restart(1)
    net.heal()
    net.run(20_000)

    assert net.links[0].is_up
    assert net[2].stats().handshakes_failed == 0


def test_restart_needs_behaviors_that_can_be_made_anew(net: Network) -> None:
    net.add_node(1, [Echo()])

    with pytest.raises(LocalError, match="Echo object"):
        net.restart(1)
    assert net.is_running(1)
    net.restart(1, [Echo()])
    assert net.incarnation(1) == 1


def test_function_gets_the_id_of_the_node_it_makes_behaviors_for(net: Network) -> None:
    ids: list[int] = []

    def make(node_id: int) -> list[NetworkBehavior]:
        ids.append(node_id)
        return [Echo()]

    net.add_node(7, make)
    net.restart(7)

    assert ids == [7, 7]


def test_frozen_process_takes_up_what_piled_up(net: Network) -> None:
    pair(net)
    net.freeze(2)
    for _ in range(20):
        say(net, b"x")
        net.run(10)
    assert net.is_frozen(2)
    assert heard(net) == []
    net.thaw(2)
    net.run(1)

    assert heard(net) == [b"x"] * 20
    assert net.links[0].is_up


def test_stopped_node_says_goodbye(net: Network) -> None:
    pair(net, redial_ms=None)
    net.stop(2)
    net.run(10)

    assert [event[5] for event in net.trace.of("down") if event[2] == 1] == [1]  # CLOSE_SHUTDOWN
    assert not net.is_running(2)


def test_node_that_closes_itself_is_gone(net: Network) -> None:
    pair(net, redial_ms=None)
    node = net[2]
    node.post(node.close)
    net.run(100)

    assert not net.is_running(2)
    assert not net[1].connections


# -- what goes wrong -----------------------------------------------------------------------------


def break_hook(net: Network) -> None:
    net.topology.line(2, [Echo, Broken])
    net.settle()
    net[1].agent(10).send_to_node(2, b"", to_service=11)
    net.run(10)


def test_hook_error_comes_out_of_the_with_block(backend: BackendName) -> None:
    text = r"hook errors: 1 .*Broken.on_message on node 2"
    with pytest.raises(SimulationError, match=text) as info, Network(backend=backend) as net:
        break_hook(net)
    assert isinstance(info.value.__cause__, ZeroDivisionError)


def test_hook_errors_may_be_allowed(backend: BackendName) -> None:
    with Network(backend=backend) as net:
        net.allow_hook_errors = True
        break_hook(net)

        assert [error.node_id for error in net.hook_errors] == [2]
        assert net.trace.of("hook_failed")[0][3:] == ("Broken.on_message", "ZeroDivisionError")


def test_settle_says_what_is_missing(net: Network) -> None:
    net.add_node(1)
    net.add_node(2, secret=b"another secret than that of 1")
    net.link(1, 2)

    with pytest.raises(SimulationError, match=r"not settled after 5000 ms.*link 1-2 is not up"):
        net.settle(5_000)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (lambda net: net.add_node(1), "a node 1 already"),
        (lambda net: net.kill(9), "no node 9"),
        (lambda net: net.link(1, 1), "with itself"),
        (lambda net: net.heal(1), "two nodes or none"),
        (lambda net: net.run(-1), "0 or more"),
        (lambda net: net.do("dance"), "no action 'dance'"),
        (lambda net: net.play([[0, "dance", {}]]), "no operation 'dance'"),
        (lambda net: net.behavior(1, Broken), "no Broken"),
    ],
)
def test_what_makes_no_sense_is_refused(net: Network, operation: Any, text: str) -> None:
    net.add_node(1, [Echo])
    before = len(net.operations)

    with pytest.raises(LocalError, match=text):
        operation(net)
    assert len(net.operations) == before


def test_operation_inside_a_hook_is_refused(net: Network) -> None:
    class Killer(NetworkBehavior):
        service_id = 12

        def on_started(self, agent: Any) -> None:
            net.kill(1)

    net.allow_hook_errors = True
    net.add_node(1, [Killer])
    net.run(1)

    assert "inside a hook" in str(net.hook_errors[0].error)
    assert net.is_running(1)


# -- again ---------------------------------------------------------------------------------------


def act(net: Network, a: int, b: int) -> None:
    net[a].agent(10).send_to_node(b, b"said")


def live(backend: BackendName) -> Network:
    """Live through faults."""
    net = Network(seed=5, backend=backend)
    net.actions["act"] = act
    net.topology.random(12, [Echo], degree=3, latency_ms=4, jitter_ms=3, loss=0.02)
    net.settle()
    net.call_at(net.now_ms + 100, lambda: net.do("act", a=1, b=12))
    net.play(random_faults(net, 30_000, mean_gap_ms=1_000))
    net.settle()
    net.do("act", a=3, b=4)
    net.run(1_000)
    return net


def test_replay_of_the_log_gives_the_same_hash(backend: BackendName) -> None:
    with live(backend) as net:
        log = json.loads(json.dumps(net.operations))
        kinds = {name for _, name, _ in log}
        assert kinds >= {"add_node", "link", "kill", "restart", "cut", "heal", "freeze", "do"}
        again = Network.replay(
            log,
            behaviors=[Echo],
            actions={"act": act},
            until_ms=net.now_ms,
            seed=5,
            backend=backend,
        )
        with again:
            assert again.hash == net.hash
            assert again.operations == net.operations


def test_log_with_lines_taken_out_still_plays(backend: BackendName) -> None:
    with live(backend) as net:
        log = [line for at, line in enumerate(net.operations) if at < 40 or at % 3]
    actions = {"act": lambda net, a, b: None}
    with Network.replay(
        log, behaviors=[Echo], actions=actions, skip_invalid=True, seed=5, backend=backend
    ) as again:
        assert again.operations != []


def test_other_seed_gives_another_hash(backend: BackendName) -> None:
    hashes = set()
    for seed in (1, 2):
        with Network(seed, backend=backend) as net:
            net.topology.ring(4, latency_ms=3, jitter_ms=2)
            net.settle()
            hashes.add(net.hash)
    assert len(hashes) == 2


def test_random_faults_end_in_a_whole_network(backend: BackendName) -> None:
    with Network(seed=8, backend=backend) as net:
        net.topology.grid(3, 3, [Echo])
        net.settle()
        faults = random_faults(net, 20_000, mean_gap_ms=500)
        assert faults == random_faults(net, 20_000, mean_gap_ms=500)
        net.play(faults)
        net.settle()

        assert all(link.is_up for link in net.links)
        assert all(net.is_running(i) and not net.is_frozen(i) for i in net.node_ids)
        net[1].agent(10).send_to_node(9, b"x")
        net.run(100)
        assert heard(net, 9) == [b"x"]


def test_simulated_node_has_no_descriptor(net: Network) -> None:
    node = net.add_node(1)

    with pytest.raises(LocalError, match="simulated time"):
        node.fileno()


@pytest.mark.parametrize(
    ("shape", "links"),
    [("line", 4), ("ring", 5), ("star", 4), ("mesh", 10), ("random", 7)],
)
def test_topology_links_as_its_name_says(backend: BackendName, shape: str, links: int) -> None:
    with Network(backend=backend) as net:
        ids = getattr(net.topology, shape)(5)
        net.settle()

        assert ids == (1, 2, 3, 4, 5)
        assert len(net.links) == links
        assert all(link.is_up for link in net.links)


def test_ids_go_on_in_the_next_group() -> None:
    assert [nth_id(at) for at in (0, 254, 255, 256, 510)] == [1, 255, 257, 258, 513]
