"""GLUE is put in place from the hub's layout, and read from there as from the hub."""

from pathlib import Path

import datasets
import pytest

from datamodules.glue_download import download, main
from datamodules.glue_files import GlueFiles
from objectives.glue import glue_task


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A directory in the hub's layout with CoLA alone."""
    folder = tmp_path / "hub" / "cola"
    folder.mkdir(parents=True)
    for split, labels in (("train", [0, 1, 1]), ("validation", [1, 0]), ("test", [-1])):
        rows = {"sentence": [f"{split} {n}" for n in range(len(labels))], "label": labels, "idx": list(range(len(labels)))}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "hub"


def test_what_is_put_in_place_is_read_as_from_the_hub(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "glue"), "--tasks", "CoLA", "--source", str(hub)])
    assert "CoLA   1 test, 3 train, 2 validation" in capsys.readouterr().out
    task = glue_task("CoLA")
    for name, labelled in (("train", True), ("dev", True), ("test", False)):
        here, there = (GlueFiles(task, str(path)).read(name, labelled) for path in (tmp_path / "glue", hub))
        assert here == there
        assert len(here.texts[0]) > 0
    assert {file.name for file in (tmp_path / "glue" / "cola").iterdir()} == {
        f"{split}.parquet" for split in ("train", "validation", "test")
    }


def test_a_second_time_keeps_what_is_there(hub: Path, tmp_path: Path) -> None:
    download(tmp_path, "CoLA", str(hub))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cola").iterdir()}
    (tmp_path / "cola" / "test.parquet").unlink()
    download(tmp_path, "CoLA", str(hub))
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "cola").iterdir()}
    assert after.keys() == before.keys()
    assert [file.stem for file in before if after[file] != before[file]] == ["test"]


def test_the_rows_of_what_is_kept_are_counted(hub: Path, tmp_path: Path) -> None:
    assert download(tmp_path, "CoLA", str(hub))["test"] == 1
    columns = {"sentence": ["a", "b"], "label": [-1, -1], "idx": [0, 1]}
    datasets.Dataset.from_dict(columns).to_parquet(hub / "cola" / "test-00000-of-00001.parquet")
    assert download(tmp_path, "CoLA", str(hub))["test"] == 1
    assert download(tmp_path / "anew", "CoLA", str(hub))["test"] == 2


def test_what_the_source_has_not_is_one_error(hub: Path, tmp_path: Path, glue_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no MRPC there"):
        download(tmp_path, "MRPC", str(hub))
    with pytest.raises(ValueError, match="has the official files of MRPC already"):
        download(tmp_path, "MRPC", str(glue_dir))
