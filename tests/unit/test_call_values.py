"""CallAnswer and RpcRequest: frozen values."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import pytest

from netcore.errors import RemoteFailure

REQUEST = {
    "payload": b"1", "from_node": 7, "from_service": 1, "to_service": 2, "stream_id": 3,
    "deadline_ms": 4, "sender_verified": True,
}  # fmt: skip


def values(kernels: ModuleType) -> list[Any]:
    """Return one of each kind, by calling what makes them."""
    error = RemoteFailure(3, "why")
    return [
        kernels.CallAnswer(ok=True, payload=b"6"),
        kernels.CallAnswer(ok=False, error=error),
        kernels.RpcRequest(**REQUEST),
    ]


def test_call_answer_has_its_fields_and_defaults(kernels: ModuleType) -> None:
    answer = kernels.CallAnswer(ok=True)
    assert (answer.ok, answer.payload, answer.error) == (True, b"", None)


def test_call_answer_result_is_the_payload_or_raises_the_error(kernels: ModuleType) -> None:
    fine, bad, _ = values(kernels)
    assert fine.result() == b"6"
    with pytest.raises(RemoteFailure, match="why") as caught:
        bad.result()
    assert caught.value is bad.error


def test_rpc_request_has_its_fields_and_defaults(kernels: ModuleType) -> None:
    request = kernels.RpcRequest(**REQUEST)
    assert {name: getattr(request, name) for name in REQUEST} == REQUEST
    short = kernels.RpcRequest(payload=b"", from_node=7, from_service=1, to_service=2)
    assert (short.stream_id, short.deadline_ms, short.sender_verified) == (0, 0, False)


@pytest.mark.parametrize("at", range(3))
def test_values_take_keywords_only(kernels: ModuleType, at: int) -> None:
    with pytest.raises(TypeError):
        type(values(kernels)[at])(True, b"", 1, 2)


@pytest.mark.parametrize("at", range(3))
def test_values_compare_and_hash_by_their_fields(kernels: ModuleType, at: int) -> None:
    one, same = values(kernels)[at], copy.copy(values(kernels)[at])
    assert one != values(kernels)[at - 1]
    assert one != "something else"
    if at != 1:  # errors compare by identity
        assert one == same
        assert hash(one) == hash(same)


@pytest.mark.parametrize(("at", "name"), [(0, "ok"), (0, "error"), (2, "payload")])
def test_values_are_immutable(kernels: ModuleType, at: int, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(values(kernels)[at], name, 0)
    with pytest.raises(AttributeError):
        delattr(values(kernels)[at], name)
    with pytest.raises((AttributeError, TypeError)):
        values(kernels)[at].other = 0


@pytest.mark.parametrize("at", range(3))
def test_values_can_be_pickled_and_copied(kernels: ModuleType, at: int) -> None:
    one = values(kernels)[at]
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert repr(again) == repr(one)


def test_values_look_like_their_constructors(kernels: ModuleType) -> None:
    fine, bad, request = values(kernels)
    assert repr(fine) == "CallAnswer(ok=True, payload=b'6', error=None)"
    assert repr(bad) == f"CallAnswer(ok=False, payload=b'', error={bad.error!r})"
    assert repr(request) == (
        "RpcRequest(payload=b'1', from_node=7, from_service=1, to_service=2, stream_id=3, "
        "deadline_ms=4, sender_verified=True)"
    )
