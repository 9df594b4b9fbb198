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


@pytest.fixture
def write_trial(tmp_path: Path, write_run: WriteRun) -> WriteRun:
    """Writes the run of a trial of ``tmp_path/sweep`` and adds it to ``sweep.json``; returns the run's directory."""
    trials: dict[str, dict[str, object]] = {}

    def write(
        name: str,
        row: str,
        stage: str,
        settings: dict[str, object] | None = None,
        point: dict[str, object] | None = None,
        **summary: object,
    ) -> Path:
        run = write_run(f"sweep/{name}", **summary)
        plan = {"task": summary.get("task", ""), "seed": summary.get("seed"), "settings": settings or {}, "start": ""}
        trials[name] = plan | {"run": f"{name}/version_0", "status": "finished", "row": row, "stage": stage}
        trials[name] |= {"point": point or {}}
        content = {"name": "sweep", "model": "tiny", "protocol": "rows", "trials": trials}
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
        return run

    return write
