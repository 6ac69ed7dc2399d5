"""The table of links: by conn id, by neighbour, and by the neighbour's incarnation."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from netcore.links import Link, LinkTable


class Switch:
    """Knows connections by id, as the kernel does."""

    def __init__(self) -> None:
        self.conns: dict[int, Any] = {}

    def find_connection(self, conn_id: int) -> Any:
        return self.conns.get(conn_id)

    def connections(self) -> list[Any]:
        return list(self.conns.values())


class Table:
    """A table with links that a test makes by numbers."""

    def __init__(self, kernels: ModuleType) -> None:
        self._table = LinkTable()
        self.switch = Switch()
        bind: Any = self._table.bind
        bind(self.switch)
        self._vitals = kernels.Vitals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._table)

    def make(self, conn_id: int, node_id: int, epoch: int = 1) -> Link:
        conn: Any = SimpleNamespace(
            conn_id=conn_id, remote_node_id=node_id, state=0, owner=None, max_frame_bytes=1
        )
        link = Link(conn, self._vitals(conn_id, epoch, 0), "somewhere")
        self.switch.conns[conn_id] = conn
        self.add(link)
        return link

    def end(self, link: Link) -> None:
        del self.switch.conns[link.conn.conn_id]
        self.remove(link)


@pytest.fixture
def table(kernels: ModuleType) -> Table:
    return Table(kernels)


def close(link: Link) -> None:
    link.conn.state = 1


def test_links_are_found_by_id_and_iterated_oldest_first(table: Table) -> None:
    links = [table.make(conn_id, node_id) for conn_id, node_id in ((7, 1), (5, 2), (6, 1))]
    assert [table.find(number) for number in (7, 5, 6, 8)] == [*links, None]
    assert list(table) == links
    assert len(table) == 3


def test_links_to_a_node_are_listed_oldest_first_closing_ones_too(table: Table) -> None:
    links = [table.make(conn_id, 1) for conn_id in (3, 1, 2)]
    other = table.make(9, 2)
    close(links[0])
    assert table.to_node(1) == links
    assert table.to_node(2) == [other]
    assert table.to_node(3) == []


def test_removed_link_is_gone_from_every_view(table: Table) -> None:
    links = [table.make(conn_id, 1) for conn_id in (1, 2, 3)]
    for left, link in zip((links[1:], [links[2]], []), links, strict=True):
        table.end(link)
        assert table.to_node(1) == list(table) == left
        assert len(table) == len(left)
        assert table.leads_to(1) == bool(left)
    assert table.find(1) is None


def test_removing_a_link_twice_does_nothing(table: Table) -> None:
    alone, first, second = table.make(1, 1), table.make(2, 2), table.make(3, 2)
    for link in (alone, alone, first, first):
        table.remove(link)
    assert len(table) == 1
    assert table.to_node(2) == [second]


def test_node_with_closing_links_only_has_no_open_one(table: Table) -> None:
    alone, *others = table.make(1, 1), table.make(2, 2), table.make(3, 2)
    assert table.is_open_to(1)
    assert not table.is_open_to(3)
    close(alone)
    assert not table.is_open_to(1)
    close(others[1])
    assert table.is_open_to(2)
    close(others[0])
    assert not table.is_open_to(2)
    assert table.leads_to(2)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_links_of_one_incarnation_have_the_same_epoch(table: Table, count: int) -> None:
    for number in range(count):
        table.make(number, 1, epoch=1 << 63)
    assert table.is_same_epoch(1, 1 << 63)
    assert not table.is_same_epoch(1, 5)


def test_open_link_of_another_incarnation_is_noticed(table: Table) -> None:
    links = [table.make(number, 1, epoch=epoch) for number, epoch in enumerate((1, 2, 1))]
    assert not table.is_same_epoch(1, 1)
    close(links[1])
    assert table.is_same_epoch(1, 1)
    table.end(links[1])
    assert table.is_same_epoch(1, 1)


def test_epoch_of_the_first_link_does_not_outlive_it(table: Table) -> None:
    links = [table.make(number, 1, epoch=epoch) for number, epoch in enumerate((1, 2, 2))]
    table.end(links[0])
    assert table.is_same_epoch(1, 2)
    assert not table.is_same_epoch(1, 1)


def test_handlers_are_kept_in_order_with_their_agents(table: Table) -> None:
    link = table.make(1, 1)
    agents: list[Any] = [SimpleNamespace(service_id=number) for number in (3, 8)]
    handlers: list[Any] = [object(), object()]
    assert list(link.handlers) == []
    assert not link.has_handlers
    for handler, agent in zip(handlers, agents, strict=True):
        link.add_handler(handler, agent)
    assert link.has_handlers
    assert list(link.handlers) == list(zip(handlers, agents, strict=True))
    assert link.find_handler(8) == (handlers[1], agents[1])
    assert link.find_handler(4) is None
    link.drop_handlers()
    assert list(link.handlers) == []
