"""Service ids of a node: present, in range, each once."""

from __future__ import annotations

from typing import Any

import pytest

from netcore import LocalError, NetworkBehavior, Node
from netcore.agent import BehaviorAgent
from netcore.registry import BehaviorTable


def behavior(number: Any) -> NetworkBehavior:
    class Numbered(NetworkBehavior):
        service_id = number

    return Numbered()


def test_table_iterates_in_ascending_order() -> None:
    table = BehaviorTable([behavior(30), behavior(10)], [behavior(255), behavior(20)])
    assert table.service_ids == (10, 20, 30, 255)


def test_table_gives_each_behavior_its_agent() -> None:
    table = BehaviorTable([behavior(1), behavior(2)], [])
    table.make_agents(lambda number: BehaviorAgent(None, Port(), number))  # type: ignore[arg-type]
    assert [agent.service_id for _, agent in table] == [1, 2]
    found = table.find(2)
    assert found is not None
    assert found[1] is table.agent(2)


class Port:
    """Answers to every name."""

    def __getattr__(self, name: str) -> object:
        return None


def test_table_find_of_an_unknown_service_is_none() -> None:
    assert BehaviorTable([], []).find(5) is None


def test_table_agent_of_an_unknown_service_raises() -> None:
    with pytest.raises(LocalError, match="service id 5"):
        BehaviorTable([], []).agent(5)


def test_service_id_used_twice_names_both_behaviors() -> None:
    with pytest.raises(ValueError, match="service id 7 is used by Numbered and Numbered"):
        Node(1, [behavior(7), behavior(7)])


@pytest.mark.parametrize("number", [240, 255])
def test_reserved_service_id_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.239, not {number}; 240\.\.255 are reserved"):
        Node(1, [behavior(number)])


@pytest.mark.parametrize("number", [-1, 256, True, "10", None, 1.0])
def test_service_id_out_of_range_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=r"Numbered: a service id is an int in 0\.\.239"):
        Node(1, [behavior(number)])


def test_missing_service_id_is_refused() -> None:
    class Nameless(NetworkBehavior):
        pass

    with pytest.raises(ValueError, match="Nameless has no service_id"):
        Node(1, [Nameless()])


@pytest.mark.parametrize("number", [0, 239])
def test_service_ids_at_the_ends_of_the_range_are_taken(number: int) -> None:
    node = Node(1, [behavior(number)])
    assert node.agent(number).service_id == number
    node.close()


def test_service_id_may_be_a_property() -> None:
    class Late(NetworkBehavior):
        @property
        def service_id(self) -> int:  # type: ignore[override]
            return 12

    node = Node(1, [Late()])
    assert node.agent(12).service_id == 12
    node.close()
