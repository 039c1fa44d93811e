from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from infra import logs
from infra.settings import Settings


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to standard error since last asked; the standard library's logging is put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = before
    root.setLevel(level)
    for room in ("infra", "selection", "annotation", "training", "service"):
        logging.getLogger(room).setLevel(logging.NOTSET)


def test_json_lines_carry_event_fields_and_time(stderr: Callable[[], str], settings: Settings) -> None:
    logs.configure(settings)
    log = logs.get_logger("selection.ingest").bind(batch_id="b1")
    log.info("frames_ingested", added=12)
    line = json.loads(stderr())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "frames_ingested",
        "added": 12,
        "batch_id": "b1",
        "level": "info",
        "logger": "selection.ingest",
    }


def test_tracebacks_are_part_of_the_line(stderr: Callable[[], str], settings: Settings) -> None:
    logs.configure(settings)
    try:
        raise ValueError("boom")
    except ValueError:
        logs.get_logger("service.app").exception("request_failed")
    (line,) = stderr().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_secrets_are_not_written(stderr: Callable[[], str], settings: Settings) -> None:
    logs.configure(settings)
    logs.get_logger("infra.x").warning("called", access_token="hunter2", url_signature="s3cr3t", settings=settings)
    written = stderr()
    assert "called" in written
    assert "hunter2" not in written
    assert "s3cr3t" not in written


def test_debug_lines_come_only_when_asked_for(stderr: Callable[[], str], settings: Settings) -> None:
    logs.configure(settings)
    logs.get_logger("infra.x").debug("detail")
    assert stderr() == ""
    logs.configure(settings, debug=True)
    logs.get_logger("infra.x").debug("detail")
    logging.getLogger("pymongo").debug("noise")
    assert len(stderr().splitlines()) == 1


def test_columns_for_people(stderr: Callable[[], str], settings: Settings) -> None:
    logs.configure(settings.model_copy(update={"log_format": "console"}))
    logs.get_logger("infra.x").info("frames_ingested", added=12)
    logging.getLogger("uvicorn").warning("from a library")
    written = stderr()
    assert "frames_ingested" in written
    assert "added=12" in written
    assert "from a library" in written


def test_nothing_reaches_standard_output_before_it_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    logs.get_logger("infra.x").info("quiet")
    logs.get_logger("infra.x").warning("heard")
    assert capfd.readouterr().out == ""
