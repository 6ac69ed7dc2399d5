"""Loggers that import ``logging`` late, and speak even when that cannot be imported."""

from __future__ import annotations

import builtins
import logging
from typing import Any

import pytest

from netcore.logs import INFO, logger_of


@pytest.fixture
def _no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the import of logging fail, as it does when no descriptor is left."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "logging":
            raise OSError(24, "Too many open files")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_logger_is_that_of_logging(caplog: pytest.LogCaptureFixture) -> None:
    logger = logger_of("netcore.test")
    with caplog.at_level(logging.DEBUG, "netcore.test"):
        logger.debug("a %s", "b")
    assert caplog.messages == ["a b"]


@pytest.mark.usefixtures("_no_import")
def test_words_go_to_stderr_where_logging_cannot_be_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logger_of("netcore.test")
    logger.warning("node %s cannot %s", 1, "accept")
    logger.error("it raised", exc_info=ValueError("seven"))
    logger.info("not important")
    assert not logger.isEnabledFor(INFO)
    assert capsys.readouterr().err == "node 1 cannot accept\nit raised: ValueError: seven\n"
    monkeypatch.setattr("sys.stderr", None)
    logger.error("nobody hears it")


def test_logger_tries_again(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    logger = logger_of("netcore.test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", lambda *args, **kwargs: 1 / 0)
        logger.debug("lost")
    logger.warning("heard")
    assert caplog.messages == ["heard"]
