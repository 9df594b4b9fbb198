"""The tasks beyond GLUE in the official layouts, a few rows each; words give the answers away."""

import csv
import json
import random
from pathlib import Path
from typing import Any

WORDS = (
    "sentences",
    "sparse",
    "dense",
    "weights",
    "networks",
    "training",
    "language",
    "models",
    "tokens",
    "layers",
    "gradients",
)
MARKS = ("students", "teachers", "encoder", "attention")
SWAG_COLUMNS = (
    "",
    "video-id",
    "fold-ind",
    "startphrase",
    "sent1",
    "sent2",
    "gold-source",
    *(f"ending{n}" for n in range(4)),
)
ENTITIES = {"PER": "students", "ORG": "teachers", "LOC": "encoder", "MISC": "attention"}


def squad_paragraph(number: int, draw: random.Random, unanswerable: bool) -> dict[str, Any]:
    """A context of 20 to 60 words and three questions; the answer follows the word that the question ends with."""
    words = draw.choices(WORDS, k=draw.randint(20, 60))
    qas = []
    for place, question in enumerate(sorted(draw.sample(range(1, len(words) - 1), 3))):
        words[question - 1] = MARKS[place]
        name = f"q{number}-{place}"
        qas.append({"id": name, "question": f"what follows {MARKS[place]}", "place": question})
    context = " ".join(words)
    for entry in qas:
        place = entry.pop("place")
        start = len(" ".join(words[:place])) + 1
        answers = [{"text": words[place], "answer_start": start}] * draw.randint(1, 2)
        if unanswerable:
            entry["is_impossible"] = draw.random() < 0.4
            answers = [] if entry["is_impossible"] else answers
        entry["answers"] = answers
    return {"context": context, "qas": qas}


def write_squad(folder: Path, version: str, rows: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for split, paragraphs in rows.items():
        draw = random.Random(split)
        made = [squad_paragraph(number, draw, version == "v2.0") for number in range(paragraphs)]
        content = {"version": version, "data": [{"title": split, "paragraphs": made}]}
        (folder / f"{split}-{version}.json").write_text(json.dumps(content), encoding="utf-8")


def swag_row(number: int, draw: random.Random) -> list[str]:
    """The right ending has the word that the first sentence ends with."""
    right, marks = draw.randrange(4), draw.sample(MARKS, 4)
    first, begun = " ".join([*draw.choices(WORDS, k=4), marks[right]]), draw.choice(WORDS)
    endings = [" ".join([*draw.choices(WORDS, k=draw.randint(1, 5)), mark]) for mark in marks]
    return [
        str(number),
        f"video{number}",
        str(number),
        f"{first}. {begun}",
        f"{first}.",
        begun,
        "gold",
        *endings,
        str(right),
    ]


def write_swag(folder: Path, rows: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for split, number in rows.items():
        draw = random.Random(split)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow([*SWAG_COLUMNS, *(["label"] if split != "test" else [])])
            lines.writerows(swag_row(row, draw)[: None if split != "test" else -1] for row in range(number))


def conll_sentence(draw: random.Random) -> list[str]:
    """Lines of IOB1: two entities of one type that touch are told apart by ``B-``."""
    lines, before = [], "O"
    for _ in range(draw.randint(3, 14)):
        entity = draw.choice([None, None, *ENTITIES])
        for _ in range(draw.randint(1, 2) if entity else 1):
            word = ENTITIES[entity] if entity else draw.choice(WORDS)
            lines.append(f"{word} NN I-NP {f'I-{entity}' if entity else 'O'}")
        if entity and entity == before:
            first = len(lines) - 1 - (lines[-1] == lines[-2] if len(lines) > 1 and lines[-2].endswith(f"I-{entity}") else 0)
            lines[first] = lines[first].replace(f"I-{entity}", f"B-{entity}")
        before = entity or "O"
    return lines


def write_conll(folder: Path, rows: dict[str, int]) -> None:
    """``eng.train`` and so on, a document every third sentence."""
    folder.mkdir(parents=True)
    for split, sentences in rows.items():
        draw, lines = random.Random(split), []
        for number in range(sentences):
            lines += ["-DOCSTART- -X- O O", ""] if number % 3 == 0 else []
            lines += [*conll_sentence(draw), ""]
        (folder / f"eng.{split}").write_text("\n".join(lines), encoding="utf-8")


def write_tasks(root: Path) -> Path:
    """Write everything below ``root``."""
    write_squad(root / "squad", "v1.1", {"train": 12, "dev": 5})
    write_squad(root / "squad_v2", "v2.0", {"train": 12, "dev": 5})
    write_swag(root / "SWAG", {"train": 37, "val": 13, "test": 5})
    write_conll(root / "CoNLL-2003", {"train": 37, "testa": 13, "testb": 11})
    return root
