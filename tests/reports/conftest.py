"""Summaries of runs as ``RunSummary`` would write them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes the summary of ``EXPERIMENT/version_N``, finished unless told otherwise, and returns the run's directory."""

    def write(experiment: str, version: int = 0, **summary: object) -> Path:
        run = tmp_path / experiment / f"version_{version}"
        run.mkdir(parents=True)
        content = {"experiment": run.parent.name, "status": "finished"} | summary
        (run / "summary.json").write_text(json.dumps(content), encoding="utf-8")
        return run

    return write
