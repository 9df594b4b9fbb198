"""Files of the tasks beyond GLUE: found, read as they are meant, and refused in one line that says where and what."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules.task_files import TaskFiles
from objectives.beyond_glue import BEYOND_GLUE, TAGS, beyond_glue

GOOD: dict[str, Any] = {
    "id": "q1",
    "question": "Who?",
    "answers": [{"text": "Beyoncé", "answer_start": 4}],
}
CONTEXT = "👍🏽: Beyoncé sang."


def squad(*questions: Any, context: Any = CONTEXT, version: str = "v1.1") -> str:
    return json.dumps(
        {"version": version, "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    )


def only_file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def test_all_files_are_found_and_read(tasks_dir: Path) -> None:
    rows = {"SQuAD": (36, 15, None), "SQuAD2": (36, 15, None), "SWAG": (37, 13, 5), "CoNLL": (37, 13, 11)}
    for task in BEYOND_GLUE.values():
        files = TaskFiles(task, str(tasks_dir))
        found = tuple(len(files.read(split)) if split in files else None for split in ("train", "dev", "test"))
        assert found == rows[task.name]


def test_a_name_says_which_split_and_version_a_file_is(tmp_path: Path) -> None:
    for name in ("train-v1.1.json", "train-v2.0.json", "dev-v1.1.json", "dev-v2.0.json", "README.md", "evaluate-v2.0.py"):
        (tmp_path / name).touch()
    found = TaskFiles(beyond_glue("squad"), str(tmp_path)).official
    assert {split: file.name for split, file in found.items()} == {"train": "train-v1.1.json", "dev": "dev-v1.1.json"}
    found = TaskFiles(beyond_glue("SQuAD2"), str(tmp_path)).official
    assert {split: file.name for split, file in found.items()} == {"train": "train-v2.0.json", "dev": "dev-v2.0.json"}


@pytest.mark.parametrize(
    ("task", "names", "chosen"),
    [
        (
            "SWAG",
            ("train.csv", "train_full.csv", "val.csv", "val_full.csv", "test.csv"),
            ("train.csv", "val.csv", "test.csv"),
        ),
        ("CoNLL", ("eng.train", "eng.testa", "eng.testb"), ("eng.train", "eng.testa", "eng.testb")),
        ("CoNLL", ("train.txt", "valid.txt", "test.txt"), ("train.txt", "valid.txt", "test.txt")),
        ("CoNLL", ("train.conll", "dev.conll", "test.conll", "metadata"), ("train.conll", "dev.conll", "test.conll")),
        ("SQuAD", ("train-subset-v1.1.json", "xquad-en-dev.json"), ("train-subset-v1.1.json", "xquad-en-dev.json")),
    ],
)
def test_usual_names(tmp_path: Path, task: str, names: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = TaskFiles(beyond_glue(task), str(tmp_path)).official
    assert tuple(found[split].name for split in ("train", "dev", "test") if split in found) == chosen


def test_two_files_of_a_split_are_an_error(tmp_path: Path) -> None:
    for name in ("train-a.json", "train-b.json"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"train-a.json and train-b.json are both the train file; keep one"):
        TaskFiles(beyond_glue("SQuAD"), str(tmp_path))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CoNLL there; a directory with a train and a dev file"):
        TaskFiles(beyond_glue("CoNLL"), str(tmp_path))
    only_file(tmp_path, "train.csv", "")
    with pytest.raises(FileNotFoundError, match=r"no dev file of SWAG there, only train.csv"):
        TaskFiles(beyond_glue("SWAG"), str(tmp_path)).require("dev")


def test_a_question_is_read_as_it_is(tmp_path: Path) -> None:
    """An emoji with a modifier is two characters, and so it counts in answer_start."""
    path = only_file(tmp_path, "train.json", b"\xef\xbb\xbf" + squad(GOOD).encode())
    assert TaskFiles(beyond_glue("SQuAD"), str(path)).read("train").to_list() == [
        {"id": "q1", "question": "Who?", "context": CONTEXT, "answers": ["Beyoncé"], "starts": [4]}
    ]


SQUAD_FAULTS: list[tuple[str | bytes, str]] = [
    ('{"data": [\n\n{"para', r"train.json:3: not JSON, or only the beginning of it"),
    (b'{"data": "\xff"}', r"train.json: byte 10: not UTF-8"),
    ("[]", r"train.json: \$: an object expected, not list"),
    ("{}", r"train.json: \$: no 'data'"),
    ('{"data": 3}', r"train.json: \$.data: a list expected, not 3"),
    ('{"data": []}', r"train.json: no question"),
    ('{"data": [{"title": "t"}]}', r"\$.data\[0\]: no 'paragraphs'; there are 'title'"),
    (squad(GOOD, context=None), r"\$.data\[0\].paragraphs\[0\].context: a text expected, not None"),
    (squad(GOOD, context=" "), r"\$.data\[0\].paragraphs\[0\].context: empty"),
    (squad(GOOD | {"id": 7}), r"qas\[0\].id: a text expected, not 7"),
    (squad(GOOD, GOOD), r"qas\[1\].id: q1 comes twice"),
    (squad(GOOD | {"question": ""}), r"qas\[0\].question: '' is no question"),
    (squad({"id": "q", "question": "?"}), r"qas\[0\]: no 'answers'; there are 'id', 'question'"),
    (squad(GOOD | {"answers": []}), r"qas\[0\].answers: empty, but every question of SQuAD has an answer"),
    (squad(GOOD | {"answers": ["x"]}), r"qas\[0\].answers\[0\]: an object expected, not str"),
    (
        squad(GOOD | {"answers": [{"text": "sang", "answer_start": "12"}]}),
        r"answers\[0\].answer_start: a number expected, not '12'",
    ),
    (
        squad(GOOD | {"answers": [{"text": "sang", "answer_start": True}]}),
        r"answers\[0\].answer_start: a number expected, not True",
    ),
    (
        squad(GOOD | {"answers": [{"text": "sang", "answer_start": 11}]}),
        r"answer_start: 'sang' is not at 11, where ' san' is",
    ),
    (squad(GOOD | {"answers": [{"text": "", "answer_start": 11}]}), r"answers\[0\].text: empty"),
    (
        squad(GOOD | {"is_impossible": True, "answers": []}),
        r"is_impossible: true, but every question of SQuAD has an answer",
    ),
    (squad(GOOD, context="\ud83d Beyoncé"), r"paragraphs\[0\].context: half of a surrogate pair"),
]


@pytest.mark.parametrize(("content", "message"), SQUAD_FAULTS)
def test_broken_squad(tmp_path: Path, content: str | bytes, message: str) -> None:
    refused(beyond_glue("SQuAD"), only_file(tmp_path, "train.json", content), message)


def refused(task: Any, path: Path, message: str, split: str = "train") -> None:
    """One line, which begins with the file."""
    with pytest.raises(ValueError, match=message) as error:
        TaskFiles(task, str(path)).read(split)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_version_2_says_which_questions_have_no_answer(tmp_path: Path) -> None:
    path = only_file(
        tmp_path, "train.json", squad(GOOD, {"id": "q2", "question": "?", "answers": [], "is_impossible": True})
    )
    assert TaskFiles(beyond_glue("SQuAD2"), str(path)).read("train")["answers"] == [["Beyoncé"], []]
    only_file(tmp_path, "train.json", squad(GOOD | {"is_impossible": True}))
    refused(beyond_glue("SQuAD2"), path, r"qas\[0\].is_impossible: true, with 1 answers")


def test_a_rare_misplaced_answer_is_scored_and_not_trained_on(tmp_path: Path) -> None:
    wrong = GOOD | {"id": "wrong", "answers": [{"text": "Beyoncé", "answer_start": 5}]}
    path = only_file(tmp_path, "train.json", squad(wrong, *(GOOD | {"id": str(number)} for number in range(9_999))))
    with pytest.warns(UserWarning, match=r"1 of 10000 answers are like this, and not trained on"):
        rows = TaskFiles(beyond_glue("SQuAD"), str(path)).read("train")
    assert (rows[0]["answers"], rows[0]["starts"], rows[1]["starts"]) == (["Beyoncé"], [-1], [4])


SWAG_HEADER = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
SWAG_ROW = '0,v,1,"He sits. He",He sits.,He,gold,"eats, then",sleeps,runs,sings,2'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.csv:1: the file is empty"),
        (SWAG_HEADER, r"train.csv:1: a header and no row"),
        (SWAG_HEADER.replace("ending3", "end"), r"train.csv:1: no column 'ending3'"),
        (SWAG_HEADER.replace(",label", ""), r"train.csv:1: no column 'label'"),
        (f"{SWAG_HEADER}\n{SWAG_ROW}\n{SWAG_ROW},x", r"train.csv:3: 13 cells, 12 expected"),
        (f"{SWAG_HEADER}\n{SWAG_ROW[:-1]}4", r"train.csv:2: column 'label': '4' is not one of 0 to 3"),
        (f"{SWAG_HEADER}\n{SWAG_ROW.replace('sleeps', ' ')}", r"train.csv:2: column 'ending1' is ' ', a text expected"),
        (f"{SWAG_HEADER}\n" + SWAG_ROW.replace('then"', "then"), r"train.csv:2: not CSV \(unexpected end of data\)"),
        (f"{SWAG_HEADER}\n{SWAG_ROW}\n".encode() + b"\xe9", r"train.csv:3: not UTF-8"),
        (f"{SWAG_HEADER}\n\0", r"train.csv:2: a NUL byte"),
        (f"{SWAG_HEADER},label\n{SWAG_ROW},2", r"train.csv:1: a column comes twice"),
    ],
)
def test_broken_swag(tmp_path: Path, content: str | bytes, message: str) -> None:
    refused(beyond_glue("SWAG"), only_file(tmp_path, "train.csv", content), message)


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r\n\r\n"])
def test_swag_is_read_with_its_quotes(tmp_path: Path, end: str) -> None:
    (row,) = TaskFiles(beyond_glue("SWAG"), str(only_file(tmp_path, "train.csv", f"{SWAG_HEADER}\n{SWAG_ROW}{end}"))).read(
        "train"
    )
    assert (row["sent1"], row["sent2"], row["ending0"], row["choice"]) == ("He sits.", "He", "eats, then", 2)


@pytest.mark.parametrize("begun", ["", None])
def test_a_second_sentence_of_swag_may_be_empty_and_is_there(tmp_path: Path, begun: str | None) -> None:
    columns = {name: ["x"] for name in SWAG_HEADER.split(",")[1:]} | {"sent2": [begun], "label": [2]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    if begun is None:
        refused(beyond_glue("SWAG"), tmp_path, r"row 0: column 'sent2' is None, a text expected")
    else:
        assert TaskFiles(beyond_glue("SWAG"), str(tmp_path)).read("train")["sent2"] == [""]


@pytest.mark.realdata
def test_the_official_rows_of_swag(realdata: Path, tmp_path: Path) -> None:
    content = (realdata / "swag" / "swag-11-rows.csv").read_bytes()
    rows = TaskFiles(beyond_glue("SWAG"), str(only_file(tmp_path, "train.csv", content))).read("train")
    with (realdata / "swag" / "swag-11-rows.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert rows["ending2"] == [row["ending2"] for row in expected]
    assert rows["choice"] == [int(row["label"]) for row in expected]
    assert len(rows) == 11


@pytest.mark.realdata
@pytest.mark.parametrize(("split", "questions"), [("train", 3939), ("dev", 1190)])
def test_the_real_questions(realdata: Path, split: str, questions: int) -> None:
    rows = TaskFiles(beyond_glue("SQuAD"), str(realdata)).read(split)  # type: ignore[arg-type]
    assert len(rows) == questions
    for row in rows:
        assert all(row["context"][s : s + len(a)] == a for a, s in zip(row["answers"], row["starts"], strict=True))


IOB1 = """-DOCSTART- -X- O O

U.N. NNP I-NP I-ORG
official NN I-NP O
Ekeus NNP I-NP I-PER
Smith NNP I-NP B-PER

Bonn NNP I-NP I-LOC
"""
IOB2 = IOB1.replace("I-ORG", "B-ORG").replace("I-PER", "B-PER").replace("I-LOC", "B-LOC")


@pytest.mark.parametrize(
    "content",
    [IOB1, IOB2, *(IOB1.replace("\n", end) for end in ("\r\n", "\r")), IOB1.replace(" ", "\t"), f"\ufeff{IOB1}\n\n\n"],
)
def test_one_rule_reads_both_schemes(tmp_path: Path, content: str) -> None:
    first, second = TaskFiles(beyond_glue("CoNLL"), str(only_file(tmp_path, "eng.train", content))).read("train")
    assert first["words"] == ["U.N.", "official", "Ekeus", "Smith"]
    assert [TAGS[tag] for tag in first["tags"]] == ["B-ORG", "O", "B-PER", "B-PER"]
    assert first["others"] == ["NNP I-NP", "NN I-NP", "NNP I-NP", "NNP I-NP"]
    assert first["document"].split() == ["-DOCSTART-", "-X-", "O", "O"]
    assert (second["words"], second["document"]) == (["Bonn"], "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"train.txt:1: no sentence"),
        ("-DOCSTART- -X- O O\n", r"train.txt:1: no sentence"),
        ("Bonn\n", r"train.txt:1: 1 column, a word and its tag expected"),
        (f"{IOB1}\nBonn I-LOC\n", r"train.txt:10: 2 columns, 4 expected, as in the first line"),
        (
            f"{IOB1}\nBonn NNP I-NP I-GPE\n",
            r"train.txt:10: 'I-GPE' is no tag; O, or B- or I- with PER, ORG, LOC or MISC expected",
        ),
        (f"{IOB1}\n".encode() + b"B\xf6nn NNP I-NP I-LOC", r"train.txt:10: not UTF-8"),
        ("Bonn\0 O\n", r"train.txt:1: a NUL byte"),
    ],
)
def test_broken_conll(tmp_path: Path, content: str | bytes, message: str) -> None:
    refused(beyond_glue("CoNLL"), only_file(tmp_path, "train.txt", content), message)


@pytest.mark.parametrize("layout", ["parquet", "saved"])
@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_the_hub_layout_says_the_same(tasks_dir: Path, tmp_path: Path, task: str, layout: str) -> None:
    official = TaskFiles(beyond_glue(task), str(tasks_dir)).read("train")
    as_on_hub: dict[str, Callable[[dict], dict]] = {
        "span": lambda row: {
            **{name: row[name] for name in ("id", "question", "context")},
            "answers": {"text": row["answers"], "answer_start": row["starts"]},
        },
        "choice": lambda row: (
            {name: row[name] for name in row if name not in ("choice", "index")} | {"label": row["choice"]}
        ),
        "tag": lambda row: {"tokens": row["words"], "ner_tags": row["tags"]},
    }
    hub = official.map(as_on_hub[beyond_glue(task).kind], remove_columns=official.column_names)
    if layout == "saved":
        datasets.DatasetDict({"train": hub}).save_to_disk(tmp_path / "saved")
    else:
        (tmp_path / "saved").mkdir()
        hub.to_parquet(tmp_path / "saved" / "train-00000-of-00001.parquet")
    read = TaskFiles(beyond_glue(task), str(tmp_path / "saved")).read("train")
    same = {
        "span": official.column_names,
        "choice": ["sent1", "sent2", "ending0", "ending3", "choice"],
        "tag": ["words", "tags"],
    }
    for column in same[beyond_glue(task).kind]:
        assert read[column] == official[column]


@pytest.mark.parametrize("task", BEYOND_GLUE)
def test_the_folders_of_the_hub(tmp_path: Path, task: str) -> None:
    """A data set that was cloned has a folder for each configuration, and one may have cloned it below others."""
    name = beyond_glue(task).hub
    inner = {"squad": "plain_text", "swag": "regular"}.get(name, name)
    for place in (tmp_path / "clones" / name / inner, tmp_path / "clone" / inner, tmp_path / "folder"):
        place.mkdir(parents=True)
        datasets.Dataset.from_dict({"id": ["a"]}).to_parquet(place / "train-00000-of-00001.parquet")
        files = TaskFiles(beyond_glue(task), str(tmp_path / place.relative_to(tmp_path).parts[0]))
        assert "train" in files
        assert "dev" not in files


def test_broken_rows_of_the_hub(tmp_path: Path) -> None:
    faults: list[tuple[str, dict[str, list], str]] = [
        ("SQuAD", {"id": ["a"], "question": ["?"], "context": ["x"]}, r"no column 'answers'"),
        (
            "SQuAD",
            {"id": ["a"], "question": ["?"], "context": ["x"], "answers": [{"text": ["y"], "answer_start": [0]}]},
            r"row 0.answers\[0\].answer_start: 'y' is not at 0",
        ),
        ("CoNLL", {"tokens": [["a", "b"]], "ner_tags": [[0]]}, r"row 0: 2 tokens and 1 tags"),
        ("CoNLL", {"tokens": [["a"]], "ner_tags": [[9]]}, r"row 0: column 'ner_tags': 9 is no tag of CoNLL"),
        ("SWAG", {name: ["x"] for name in SWAG_HEADER.split(",")[1:]}, r"row 0: column 'label': 'x' is not one of 0 to 3"),
    ]
    for number, (task, columns, message) in enumerate(faults):
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(tmp_path / str(number))
        refused(beyond_glue(task), tmp_path / str(number), message)
