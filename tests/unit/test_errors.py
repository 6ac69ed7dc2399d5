"""The exception tree: whose fault, which fields, and words that help."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from netcore import errors
from netcore.errors import (
    AddressError,
    CallError,
    ConnectionRejected,
    ForkedNodeError,
    FrameError,
    InsecureListenError,
    LocalError,
    MessageTooBigError,
    NetcoreError,
    NodeClosedError,
    NoRouteError,
    OutgoingConnectionError,
    QueueFullError,
    RemoteError,
    SendQueueFullError,
    WaitTimeoutError,
)

CLASSES = {name: getattr(errors, name) for name in errors.__all__}


def test_all_names_every_class_of_the_module() -> None:
    here = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and value.__module__ == errors.__name__
        and not name.startswith("_")
    }
    assert here == set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_a_netcore_error_with_a_docstring(name: str) -> None:
    assert issubclass(CLASSES[name], NetcoreError)
    assert CLASSES[name].__doc__


@pytest.mark.parametrize(
    "name",
    ["AddressError", "InsecureListenError", "NoRouteError", "QueueFullError", "SendQueueFullError",
     "MessageTooBigError", "NodeClosedError", "ForkedNodeError", "WaitTimeoutError"],
)  # fmt: skip
def test_mistakes_of_the_caller_are_local(name: str) -> None:
    assert issubclass(CLASSES[name], LocalError)
    assert not issubclass(CLASSES[name], RemoteError)


@pytest.mark.parametrize(
    "name",
    ["BehaviorRejected", "RemoteRejected", "DestinationNotFound", "AuthenticationError",
     "UnsupportedProtocol", "TooManyConnections", "AlreadyConnected", "DuplicateNodeId",
     "IdentityMismatch", "SelfConnect", "HandshakeTimeout"],
)  # fmt: skip
def test_reasons_of_a_failed_dial_are_outgoing_connection_errors(name: str) -> None:
    assert issubclass(CLASSES[name], OutgoingConnectionError)


@pytest.mark.parametrize(
    "name",
    ["CallTimeout", "ServiceNotFound", "NotHandled", "RemoteFailure", "AnswerDropped", "Busy"],
)
def test_reasons_of_a_failed_call_are_call_errors(name: str) -> None:
    err = CLASSES[name](5, "text")
    assert isinstance(err, CallError)
    assert (err.code, err.text) == (5, "text")


def test_errors_are_also_what_python_programs_expect() -> None:
    assert issubclass(AddressError, ValueError)
    assert issubclass(WaitTimeoutError, TimeoutError)
    assert issubclass(ForkedNodeError, NodeClosedError)
    assert issubclass(FrameError, RemoteError)


@pytest.mark.parametrize(
    ("err", "fields", "words"),
    [
        (AddressError("1@/x", 2, "a kind"), {"text": "1@/x", "offset": 2, "reason": "a kind"},
         ["'1@/x'", "character 2", "a kind"]),
        (InsecureListenError("/ip4/0.0.0.0/tcp/1"), {"address": "/ip4/0.0.0.0/tcp/1"},
         ["/ip4/0.0.0.0/tcp/1", "secret=", "insecure=True"]),
        (NoRouteError("node 7"), {"destination": "node 7"}, ["node 7", "wait_route"]),
        (QueueFullError("max_posts", 5), {"queue": "max_posts", "limit": 5}, ["max_posts", "5"]),
        (SendQueueFullError(0x10200, 900, 800), {"conn": 0x10200, "queued": 900, "limit": 800},
         ["0x10200", "900", "800", "write_high_bytes", "on_connection_writable"]),
        (MessageTooBigError(10, 9), {"size": 10, "limit": 9}, ["10", "9", "max_frame_bytes"]),
        (WaitTimeoutError("a link", 1.5), {"condition": "a link", "timeout_s": 1.5},
         ["a link", "1.5 s"]),
        (FrameError("truncated", 3), {"reason": "truncated", "offset": 3}, ["truncated", "3"]),
        (ConnectionRejected("no"), {"reason": "no"}, ["no"]),
        (errors.BehaviorRejected("no"), {"reason": "no"}, ["this node", "no"]),
        (errors.RemoteRejected("no"), {"reason": "no"}, ["other node", "no"]),
        (errors.HandshakeTimeout("after 5 s"), {"detail": "after 5 s"}, ["no answer", "after 5 s"]),
        (CallError(400, "numbers"), {"code": 400, "text": "numbers"}, ["400", "numbers"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_error_carries_its_fields_and_says_them(
    err: Any, fields: dict[str, object], words: list[str]
) -> None:
    assert {name: getattr(err, name) for name in fields} == fields
    for word in words:
        assert word in str(err)


def test_dial_error_without_detail_says_its_summary() -> None:
    assert str(errors.DestinationNotFound()) == "nobody answers there"


def test_silence_refusal_and_wrong_secret_are_three_errors() -> None:
    three = (errors.HandshakeTimeout, errors.RemoteRejected, errors.AuthenticationError)
    for one in three:
        assert not any(issubclass(one, other) for other in three if other is not one)


@pytest.mark.parametrize(
    "err",
    [QueueFullError("q", 1), NoRouteError("node 7"), CallError(400, "x"), FrameError("sealed", 0)],
    ids=lambda err: type(err).__name__,
)
def test_error_can_be_raised_and_shown_twice(err: Exception) -> None:
    for _ in range(2):
        with pytest.raises(type(err)) as caught:
            raise err
        assert caught.value is err
    assert repr(err)


def test_errors_survive_being_handed_between_processes() -> None:
    # concurrent.futures and multiprocessing carry exceptions by pickle.
    for err in (
        QueueFullError("q", 1),
        NoRouteError("node 7"),
        CallError(400, "text"),
        FrameError("sealed", 0),
        SendQueueFullError(1, 2, 3),
        MessageTooBigError(1, 2),
        AddressError("a", 1, "b"),
        WaitTimeoutError("a", 1.0),
        InsecureListenError("a"),
        errors.BehaviorRejected("a"),
        errors.RemoteRejected("a"),
        errors.AlreadyConnected("a"),
    ):
        again = pickle.loads(pickle.dumps(err))
        assert type(again) is type(err)
        assert str(again) == str(err)
        assert vars(again) == vars(err)
