"""SQuAD as it is distributed (JSON of articles, paragraphs and questions), or as the hub has it, becomes columns of questions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from pytorch_lightning.utilities import rank_zero_warn

from objectives.beyond_glue import Split, Task

MISPLACED = 1e-4
"""Share of answers that may stand elsewhere than they say; such an answer is scored against, and not trained on."""
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "context": datasets.Value("large_string"),
        "answers": datasets.List(datasets.Value("string")),
        "starts": datasets.List(datasets.Value("int64")),
    }
)
"""Of every question: all gold answers, none where there is none, and the character of the context that each begins with."""


class Questions:
    """Collects questions, and what is wrong with them.

    Args:
        where: file or data set, the beginning of every error.
        task: whose rules they follow.
        split: test questions need no answers.
    """

    def __init__(self, where: str, task: Task, split: Split) -> None:
        self.where, self.task, self.split = where, task, split
        self.columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
        self.misplaced: list[str] = []
        self.answers = 0
        self.seen: set[str] = set()

    def add(self, place: str, question: Any, name: Any, context: str, answers: list[Any], impossible: bool | None) -> None:
        """Add a question.

        Args:
            place: JSON path or row, for errors.
            question: its text.
            name: its id.
            context: with the answer.
            answers: each with ``text`` and ``answer_start``.
            impossible: what ``is_impossible`` says; None where it says nothing.

        Raises:
            ValueError: it does not fit.
        """
        where = f"{self.where}: {place}"
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}.id: {name!r:.40} is no id, a text expected")
        if name in self.seen:
            raise ValueError(f"{where}.id: {name} comes twice")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}.question: {question!r:.40} is no question")
        if impossible and not self.task.unanswerable:
            raise ValueError(
                f"{where}.is_impossible: true, but every question of {self.task.name} has an answer; SQuAD2 has such"
            )
        if impossible is not None and impossible == bool(answers) and self.split != "test":
            raise ValueError(f"{where}.is_impossible: {str(impossible).lower()}, with {len(answers)} answers")
        if not answers and not self.task.unanswerable and self.split != "test":
            raise ValueError(
                f"{where}.answers: empty, but every question of {self.task.name} has an answer; SQuAD2 has others"
            )
        texts, starts = [], []
        for number, answer in enumerate(answers):
            text, start = checked_answer(answer, f"{where}.answers[{number}]")
            texts.append(text)
            if context[start : start + len(text)] != text or start < 0:
                found = context[max(start, 0) : max(start, 0) + len(text)]
                self.misplaced.append(
                    f"{where}.answers[{number}].answer_start: {text!r:.40} is not at {start}, where {found!r:.40} is"
                )
                start = -1
            starts.append(start)
        self.answers += len(texts)
        self.seen.add(name)
        for column, value in zip(self.columns.values(), (name, question, context, texts, starts), strict=True):
            column.append(value)

    def dataset(self) -> datasets.Dataset:
        """All of them.

        Raises:
            ValueError: there is none, or too many answers stand elsewhere than they say.
        """
        if not self.seen:
            raise ValueError(f"{self.where}: no question")
        if len(self.misplaced) > MISPLACED * self.answers:
            raise ValueError(self.misplaced[0])
        if self.misplaced:
            rank_zero_warn(
                f"{self.misplaced[0]}; {len(self.misplaced)} of {self.answers} answers are like this, and not trained on"
            )
        return datasets.Dataset.from_dict(self.columns, features=FEATURES)


def checked_answer(answer: Any, where: str) -> tuple[str, int]:
    """Text and start of an answer; ValueError unless it has both."""
    text = _entry(answer, "text", str, where)
    if not text:
        raise ValueError(f"{where}.text: empty")
    return text, _entry(answer, "answer_start", int, where)


def read_squad(file: Path, task: Task, split: Split) -> datasets.Dataset:
    """All questions of an official file, with the columns of :data:`FEATURES`.

    Raises:
        ValueError: not UTF-8 or JSON, not of SQuAD's form, an id twice, an answer that is not where it says, or questions that
            the version of SQuAD does not have.
    """
    questions = Questions(str(file), task, split)
    for article, paragraph, place in _paragraphs(_content(file), str(file)):
        context = _entry(paragraph, "context", str, f"{file}: {place}")
        if not context.strip():
            raise ValueError(f"{file}: {place}.context: empty, in {article!r:.40}")
        for number, entry in enumerate(_entry(paragraph, "qas", list, f"{file}: {place}")):
            where = f"{place}.qas[{number}]"
            for key in ("id", "question"):
                _entry(entry, key, str, f"{file}: {where}")
            answers = _entry(entry, "answers", list, f"{file}: {where}") if split != "test" or "answers" in entry else []
            impossible = _entry(entry, "is_impossible", bool, f"{file}: {where}") if "is_impossible" in entry else None
            questions.add(where, entry["question"], entry["id"], context, answers, impossible)
    return questions.dataset()


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start}: not UTF-8 ({error.reason}); convert the file first") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON, or only the beginning of it ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{file}: not SQuAD's JSON: nested without end") from None


def _paragraphs(content: Any, file: str) -> Iterator[tuple[str, Any, str]]:
    """Title, paragraph and its JSON path."""
    for number, article in enumerate(_entry(content, "data", list, f"{file}: $")):
        place = f"$.data[{number}]"
        for index, paragraph in enumerate(_entry(article, "paragraphs", list, f"{file}: {place}")):
            yield str(article.get("title", "")), paragraph, f"{place}.paragraphs[{index}]"


def _entry(holder: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(holder, dict):
        raise ValueError(f"{where}: an object expected, not {type(holder).__name__}")
    if key not in holder:
        raise ValueError(f"{where}: no {key!r}; there are {', '.join(map(repr, holder))}"[:400])
    value = holder[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a text", int: "a number", list: "a list", bool: "true or false"}
        raise ValueError(f"{where}.{key}: {names[kind]} expected, not {value!r:.40}")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}.{key}: half of a surrogate pair, which is no character")
    return value


def read_squad_hub(rows: datasets.Dataset, where: str, task: Task, split: Split) -> datasets.Dataset:
    """The same of the hub's columns ``id``, ``question``, ``context`` and ``answers`` of ``text`` and ``answer_start``.

    Raises:
        ValueError: a column is missing, or a question does not fit.
    """
    for column in ("id", "question", "context", "answers"):
        if column not in rows.column_names:
            raise ValueError(f"{where}: no column {column!r}; there are {', '.join(rows.column_names)}")
    questions = Questions(where, task, split)
    for number, row in enumerate(rows):
        place, given = f"row {number}", row["answers"]
        if not isinstance(row["context"], str) or not row["context"].strip():
            raise ValueError(f"{where}: {place}.context: {row['context']!r:.40} is no text")
        if not isinstance(given, dict) or not {"text", "answer_start"} <= given.keys():
            raise ValueError(f"{where}: {place}.answers: text and answer_start expected, not {given!r:.40}")
        if len(given["text"]) != len(given["answer_start"]):
            raise ValueError(f"{where}: {place}.answers: {len(given['text'])} texts and {len(given['answer_start'])} starts")
        pairs = zip(given["text"], given["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        questions.add(place, row["question"], row["id"], row["context"], answers, None)
    return questions.dataset()
