"""Official TSV files and the hub's layout are read alike; what does not fit is an error with file, line and column."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from datamodules.glue_files import GlueFiles, Split, read_tsv
from fake_glue import FILES, LABELS
from objectives.glue import GLUE, GlueTask

TRAINED = [task for task in GLUE.values() if task.trained_on is None]
FOLDERS = [(task, name) for name, task in GLUE.items()] + [(GLUE["AX"], "diagnostic")]


def cells(file: Path) -> list[list[str]]:
    """All lines but a header, the plain way."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8-sig").split("\n")[:-1]]
    return rows if file.parts[-2] == "CoLA" and file.stem != "test" else rows[1:]


@pytest.mark.parametrize(("task", "folder"), FOLDERS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_file_from_the_root_and_from_its_own_folder(glue_dir: Path, task: GlueTask, folder: str) -> None:
    for path in (glue_dir, glue_dir / folder):
        files = GlueFiles(task, str(path))
        assert len(files.tsv) == len(FILES[folder])
        for name in files.tsv:
            labelled = name not in task.test.values()
            split = files.read(name, labelled)
            stem = "AX" if folder == "AX" else name
            columns, rows = FILES[folder][stem]
            table = cells(glue_dir / folder / f"{stem}.tsv")
            assert len(table) == rows
            for column, texts in zip(task.texts, split.texts, strict=True):
                assert texts == [row[columns.index(column)] for row in table]
            if labelled:
                labels, classes = [row[columns.index(task.label)] for row in table], LABELS[task.name]
                assert split.labels == [classes.index(label) if classes else float(label) for label in labels]
                assert split.index == []
            else:
                assert (split.index, split.labels) == (list(range(rows)), [])


def test_the_folder_of_another_task_is_none_of_this_one(glue_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="CoLA: no MRPC there"):
        GlueFiles(GLUE["MRPC"], str(glue_dir / "CoLA"))
    with pytest.raises(FileNotFoundError, match="nowhere: no MRPC there; a directory with MRPC/train.tsv"):
        GlueFiles(GLUE["MRPC"], str(glue_dir / "nowhere"))


def test_a_folder_of_any_other_name_may_hold_the_files(glue_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(glue_dir / "RTE", tmp_path / "entailment")
    assert GlueFiles(GLUE["RTE"], str(tmp_path / "entailment")).tsv.keys() == {"train", "dev", "test"}


def test_a_missing_file_is_named_beside_those_there(glue_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(glue_dir / "RTE", tmp_path / "RTE", ignore=shutil.ignore_patterns("dev.tsv"))
    with pytest.raises(FileNotFoundError, match=r"no dev.tsv of RTE there, only test.tsv, train.tsv"):
        GlueFiles(GLUE["RTE"], str(tmp_path)).require("dev")


@pytest.fixture(scope="module")
def hub_dir(glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as the hub has them: Parquet, the splits' and columns' other names, -1 for labels of tests."""
    root = tmp_path_factory.mktemp("hub")
    for task in GLUE.values():
        (root / task.hub).mkdir()
        for name in GlueFiles(task, str(glue_dir)).tsv:
            split = as_on_the_hub(task, read_split(glue_dir, task, name))
            stem = name.replace("dev", "validation").replace("diagnostic", "test")
            split.to_parquet(root / task.hub / f"{stem}-00000-of-00001.parquet")
    return root


def read_split(glue_dir: Path, task: GlueTask, name: str) -> Split:
    return GlueFiles(task, str(glue_dir)).read(name, labelled=name not in task.test.values())


def as_on_the_hub(task: GlueTask, split: Split) -> datasets.Dataset:
    rows = len(split.texts[0])
    columns = dict(zip(task.hub_texts or task.texts, split.texts, strict=True))
    return datasets.Dataset.from_dict(
        columns | {"label": split.labels or [-1.0 if task.regression else -1] * rows, "idx": list(range(rows))}
    )


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub_cache")


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("task", GLUE.values(), ids=lambda task: task.name)
def test_the_layout_of_the_hub_is_read_alike(glue_dir: Path, hub_dir: Path, task: GlueTask) -> None:
    names = GlueFiles(task, str(glue_dir)).tsv
    for path in (hub_dir, hub_dir / task.hub):
        files = GlueFiles(task, str(path))
        for name in names:
            files.require(name)
            assert files.read(name, name not in task.test.values()) == read_split(glue_dir, task, name)


def test_a_saved_dataset_of_the_hub_is_read_alike(glue_dir: Path, tmp_path: Path) -> None:
    task = GLUE["MRPC"]
    splits = {name: as_on_the_hub(task, read_split(glue_dir, task, name)) for name in ("train", "dev", "test")}
    datasets.DatasetDict({"validation": splits.pop("dev")} | splits).save_to_disk(tmp_path / "mrpc")
    assert GlueFiles(task, str(tmp_path / "mrpc")).read("dev", True) == read_split(glue_dir, task, "dev")


def test_other_rows_of_the_hub_of_the_same_time_are_seen(tmp_path: Path) -> None:
    (file := tmp_path / "glue [v1]*" / "cola" / "train.parquet").parent.mkdir(parents=True)  # a name, no pattern
    fingerprints = set()
    for sentence in ("one", "two", "one"):
        datasets.Dataset.from_dict({"sentence": [sentence], "label": [1]}).to_parquet(file)
        os.utime(file, (1e9, 1e9))
        files = GlueFiles(GLUE["CoLA"], str(file.parents[1]))
        assert files.read("train", True).texts == ([sentence],)
        fingerprints.add(files.fingerprint("train", Path.read_bytes))
    assert len(fingerprints) == 2


@pytest.mark.parametrize("column", ["sentence", "text"])
def test_a_split_of_the_hub_is_all_its_files(tmp_path: Path, column: str) -> None:
    for number, name in enumerate(("sentence", column)):
        rows = datasets.Dataset.from_dict({name: [f"row {number}"], "label": [number]})
        rows.to_parquet(tmp_path / f"train-0000{number}-of-00002.parquet")
    if column == "sentence":
        assert GlueFiles(GLUE["CoLA"], str(tmp_path)).read("train", True) == Split((["row 0", "row 1"],), labels=[0, 1])
    else:
        with pytest.raises(ValueError, match="not all Parquet, or splits of different columns: Schema"):
            GlueFiles(GLUE["CoLA"], str(tmp_path))


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a"], "label": [2]}, "row 0: column 'label': 2 is not a label of CoLA"),
        ({"sentence": ["a", "b"], "label": [1, -1]}, "row 1: column 'label': -1 is not a label"),
        ({"text": ["a"], "label": [1]}, "no column 'sentence'; there are text, label"),
        ({"sentence": ["a", None], "label": [1, 0]}, "row 1: column 'sentence' holds None, not text"),
        ({"sentence": ["a", "b"], "label": [1.0, 0.5]}, "row 0: column 'label': 1.0 is not a label"),
        ({"sentence": ["a", "b"], "label": [True, False]}, "row 0: column 'label': True is not a label"),
    ],
)
def test_a_row_of_the_hub_that_does_not_fit(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=message):
        GlueFiles(GLUE["CoLA"], str(tmp_path)).read("train", True)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["not_entailment", "entailment"], [1, 0, 1]),
        (["Not entailment", "Entailment"], [1, 0, 1]),
        (["entailment", "not_entailment"], [0, 1, 0]),
        (["no", "yes"], [0, 1, 0]),  # which say nothing
        (["0", "1"], [0, 1, 0]),
        (["LABEL_0", "LABEL_1"], [0, 1, 0]),
    ],
)
def test_classes_in_another_order_are_those_of_their_names(tmp_path: Path, names: list[str], labels: list[int]) -> None:
    columns = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": [0, 1, 0]}
    data = datasets.Dataset.from_dict(columns).cast_column("label", datasets.ClassLabel(names=names))
    data.to_parquet(tmp_path / "train.parquet")
    assert GlueFiles(GLUE["RTE"], str(tmp_path)).read("train", True).labels == labels


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("RTE", ["False", "True"], "the classes entailment, not_entailment"),
        ("RTE", ["not_equivalent", "equivalent"], "the classes entailment, not_entailment"),
        ("STS-B", ["0", "1"], "numbers"),
    ],
)
def test_classes_of_other_names_are_refused(tmp_path: Path, task: str, names: list[str], expected: str) -> None:
    columns = {"sentence1": ["a", "b"], "sentence2": ["d", "e"], "label": [0, 1]}
    data = datasets.Dataset.from_dict(columns).cast_column("label", datasets.ClassLabel(names=names))
    data.to_parquet(tmp_path / "train.parquet")
    message = f"column 'label' has the classes {', '.join(names).lower()}; {expected} expected"
    with pytest.raises(ValueError, match=message):
        GlueFiles(GLUE[task], str(tmp_path)).read("train", True)


@pytest.mark.parametrize("task", ["RTE", "WNLI", "STS-B"])
def test_the_folder_of_another_task_of_the_hub_is_none_of_this_one(hub_dir: Path, task: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"mrpc: no {task} there"):
        GlueFiles(GLUE[task], str(hub_dir / "mrpc"))


@pytest.mark.usefixtures("hub_cache")
def test_a_number_of_the_hub_that_comes_twice(tmp_path: Path) -> None:
    columns = {"sentence": ["a", "b", "c"], "label": [-1, -1, -1], "idx": [0, 0, 1]}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(columns).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match="column 'idx' holds a number twice"):
        GlueFiles(GLUE["CoLA"], str(tmp_path)).read("test", False)


@pytest.mark.usefixtures("hub_cache")
def test_splits_of_the_hub_that_do_not_go_together(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]}).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "validation.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ValueError, match="not all Parquet, or splits of different columns"):
        GlueFiles(GLUE["CoLA"], str(tmp_path))


def test_a_hub_that_is_out_of_reach_is_one_line() -> None:
    with pytest.raises(FileNotFoundError, match="nyu-mll/glue: no CoLA there; .* or a hub id expected") as error:
        GlueFiles(GLUE["CoLA"], "nyu-mll/glue")
    assert "\n" not in str(error.value)


def test_quotes_carriage_returns_and_empty_lines_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_bytes(b'sentence\tlabel\r\n"open\t1\r\n  kept \xc2\xa0\xe2\x80\xa8as it is \t0\r\n\r\n\n')
    split = read_tsv(tmp_path / "dev.tsv", GLUE["SST-2"], True)
    assert split == Split((['"open', "  kept \u00a0\u2028as it is "],), labels=[1, 0])


QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


def test_the_few_truncated_rows_of_the_official_qqp_are_left_out(tmp_path: Path) -> None:
    row = "1\t2\t3\twhat\twhy\t1\n"
    (tmp_path / "train.tsv").write_text(QQP_HEADER + row * 10_000 + "4\t5\t6\twhat\n" + "7\t8\t9\t\twhy\t0\n")
    with pytest.warns(UserWarning, match=r"train.tsv: left out 1 of 10001 rows, .* the first is line 10002"):
        split = read_tsv(tmp_path / "train.tsv", GLUE["QQP"], True)
    assert (len(split.labels), split.texts[0][-1]) == (10_001, "")  # an empty question is official, too
    (tmp_path / "train.tsv").write_text(QQP_HEADER + row * 100 + "4\t5\t6\twhat\n")
    with pytest.raises(ValueError, match=r"train.tsv:102: fewer columns than 6"):
        read_tsv(tmp_path / "train.tsv", GLUE["QQP"], True)


def test_an_empty_sentence_is_an_error_unless_it_is_one_of_ten_thousand(tmp_path: Path) -> None:
    file, row = tmp_path / "train.tsv", "a sentence \t1\n"
    file.write_text("sentence\tlabel\n" + row * 9_999 + " \t0\n")
    assert len(read_tsv(file, GLUE["SST-2"], True).labels) == 10_000
    file.write_text("sentence\tlabel\n" + row * 9_998 + " \t0\n")
    with pytest.raises(ValueError, match=r"train.tsv:10000: column 'sentence' is empty"):
        read_tsv(file, GLUE["SST-2"], True)


@pytest.mark.parametrize("folder", ["SST2", "sst-2"])
def test_a_folder_may_be_called_as_on_the_hub(glue_dir: Path, tmp_path: Path, folder: str) -> None:
    shutil.copytree(glue_dir / "SST-2", tmp_path / folder)
    assert "train" in GlueFiles(GLUE["SST-2"], str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no CoLA there"):
        GlueFiles(GLUE["CoLA"], str(tmp_path / folder))


@pytest.mark.parametrize("name", ["id", "index"])
def test_rows_of_the_qqp_test_have_an_id(tmp_path: Path, name: str) -> None:
    (tmp_path / "test.tsv").write_text(f"{name}\tquestion1\tquestion2\n7\twhat\twhy\n3\twho\twhen\n")
    assert read_tsv(tmp_path / "test.tsv", GLUE["QQP"], False).index == [7, 3]


Change = Callable[[list[str]], list[str]]


def change(line: int, change_line: Callable[[str], str]) -> Change:
    return lambda lines: [change_line(text) if number == line else text for number, text in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("task", "labelled", "damage", "message"),
    [
        (
            "RTE",
            True,
            change(1, lambda line: line.replace("sentence2", "other")),
            "1: no column 'sentence2'; there are 'index'",
        ),
        ("RTE", False, change(1, lambda line: line.replace("index", "number")), "1: no column 'index'; there are 'number'"),
        (
            "RTE",
            True,
            change(5, lambda line: f"{line}\tmore"),
            "5: 5 columns, 4 expected (index, sentence1, sentence2, label)",
        ),
        ("RTE", True, change(5, lambda line: line.rpartition("\t")[0]), "5: 3 columns, 4 expected"),
        (
            "RTE",
            True,
            change(5, lambda line: "3\ta\tb\tperhaps"),
            "5: column 'label': 'perhaps' is not one of entailment, not",
        ),
        ("RTE", True, change(5, lambda line: "3\ta\tb\t"), "5: column 'label': '' is not one of entailment, not"),
        ("RTE", True, change(5, lambda line: "3\t \tb\tentailment"), "5: column 'sentence1' is empty"),
        ("RTE", True, change(5, lambda line: ""), "5: an empty line"),
        ("RTE", True, lambda lines: ["", *lines], "1: an empty line"),
        ("RTE", True, lambda lines: lines[:1], "1: a header and no row"),
        ("RTE", True, lambda lines: [], "1: the file is empty"),
        ("RTE", True, change(5, lambda line: line.replace(" ", "\0")), "5: a NUL byte"),
        ("RTE", False, change(5, lambda line: "x\ta\tb"), "5: column 'index': 'x' is not a number"),
        ("RTE", False, change(5, lambda line: f"{10**25}\ta\tb"), f"5: column 'index': '{10**25}' is not a number"),
        ("RTE", False, change(5, lambda line: "٣\ta\tb"), "5: column 'index': '٣' is not a number"),
        ("RTE", False, change(5, lambda line: "0\ta\tb"), "5: column 'index': 0 comes twice"),
        ("CoLA", True, change(2, lambda line: "x\t2\t\ta sentence"), "2: column 'label': '2' is not one of 0, 1"),
        ("CoLA", True, lambda lines: [], "1: the file is empty"),
        (
            "STS-B",
            True,
            change(2, lambda line: line.rpartition("\t")[0] + "\t5.1"),
            "2: column 'score': 5.1 is not in [0, 5]",
        ),
        (
            "STS-B",
            True,
            change(2, lambda line: line.rpartition("\t")[0] + "\tnan"),
            "2: column 'score': nan is not in [0, 5]",
        ),
        (
            "STS-B",
            True,
            change(2, lambda line: line.rpartition("\t")[0] + "\thigh"),
            "2: column 'score': 'high' is not a number",
        ),
    ],
)
def test_a_broken_file(glue_dir: Path, tmp_path: Path, task: str, labelled: bool, damage: Change, message: str) -> None:
    file = tmp_path / "broken.tsv"
    source = glue_dir / task / ("train.tsv" if labelled else "test.tsv")
    lines = source.read_text(encoding="utf-8").split("\n")[:-1]
    file.write_text("".join(f"{line}\n" for line in damage(lines)), encoding="utf-8")
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below)
        read_tsv(file, GLUE[task], labelled)
    assert str(error.value).startswith(f"{file}:{message}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_another_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nplain\t1\nnaïve\t0\n", encoding=encoding)
    line = 3 if encoding == "latin-1" else 1
    with pytest.raises(ValueError, match=rf"dev.tsv:{line}: (not UTF-8|a NUL byte)"):
        read_tsv(tmp_path / "dev.tsv", GLUE["SST-2"], True)
