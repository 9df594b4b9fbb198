"""All of GLUE in the official layouts, a few rows each: test files each of their own number, and words that give classes away."""

import random
from pathlib import Path

WORDS = ("the", "sparse", "dense", "weights", "networks", "training", "language", "models", "tokens", "layers", "gradients")
MARKS = ("students", "teachers", "encoder")  # of the classes, in the order of the official label strings
BINARY, ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
LABELS = {"CoLA": BINARY, "SST-2": BINARY, "MRPC": BINARY, "STS-B": (), "QQP": BINARY, "MNLI": NLI}
LABELS |= {"QNLI": ENTAILMENT, "RTE": ENTAILMENT, "WNLI": BINARY, "AX": NLI}

PAIR = ("sentence1", "sentence2")
STSB = ("index", "genre", "filename", "year", "old_index", "source1", "source2", *PAIR)
PARSES = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
MNLI = ("index", "promptID", "pairID", "genre", *PARSES, *PAIR)
MNLI_DEV = (*MNLI, *(f"label{number}" for number in range(1, 6)), "gold_label")
MRPC_IDS = ("#1 ID", "#2 ID", "#1 String", "#2 String")
QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
COLA, QNLI = ("source", "label", "mark", "sentence"), ("index", "question", "sentence")

FILES: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {  # folder → file → columns and rows
    "CoLA": {"train": (COLA, 37), "dev": (COLA, 13), "test": (("index", "sentence"), 5)},
    "SST-2": {
        "train": (("sentence", "label"), 37),
        "dev": (("sentence", "label"), 13),
        "test": (("index", "sentence"), 6),
    },
    "MRPC": {"train": (("Quality", *MRPC_IDS), 37), "dev": (("Quality", *MRPC_IDS), 13), "test": (("index", *MRPC_IDS), 7)},
    "STS-B": {"train": ((*STSB, "score"), 37), "dev": ((*STSB, "score"), 13), "test": (STSB, 8)},
    "QQP": {"train": (QQP, 37), "dev": (QQP, 13), "test": (("id", "question1", "question2"), 9)},
    "MNLI": {
        "train": ((*MNLI, "label1", "gold_label"), 37),
        "dev_matched": (MNLI_DEV, 13),
        "dev_mismatched": (MNLI_DEV, 11),
        "test_matched": (MNLI, 10),
        "test_mismatched": (MNLI, 11),
    },
    "QNLI": {"train": ((*QNLI, "label"), 37), "dev": ((*QNLI, "label"), 13), "test": (QNLI, 12)},
    "RTE": {
        "train": (("index", *PAIR, "label"), 37),
        "dev": (("index", *PAIR, "label"), 13),
        "test": (("index", *PAIR), 13),
    },
    "WNLI": {
        "train": (("index", *PAIR, "label"), 37),
        "dev": (("index", *PAIR, "label"), 13),
        "test": (("index", *PAIR), 14),
    },
    "diagnostic": {"diagnostic": (("index", *PAIR), 15)},
    "AX": {"AX": (("index", *PAIR), 15)},
}
TEXTS = {"sentence", "question", "question1", "question2", *PAIR, "#1 String", "#2 String"}
LABEL_COLUMNS = {"label", "Quality", "score", "is_duplicate", "gold_label"}
INDEX_COLUMNS = {"index", "id"}
SUBMISSION_ROWS = {"CoLA": 5, "SST-2": 6, "MRPC": 7, "STS-B": 8, "QQP": 9, "MNLI-m": 10, "MNLI-mm": 11, "QNLI": 12}
SUBMISSION_ROWS |= {"RTE": 13, "WNLI": 14, "AX": 15}


def glue_row(task: str, columns: tuple[str, ...], number: int, draw: random.Random) -> list[str]:
    """One row; its last sentence has the mark of its class, and a quotation mark that nothing closes."""
    labels = LABELS.get(task, NLI)
    chosen = draw.randrange(len(labels) or 2)
    label = labels[chosen] if labels else f"{draw.uniform(0, 5) / 2 + 2.5 * chosen:.3f}"
    row = []
    for column in columns:
        if column in TEXTS:
            words = draw.choices(WORDS, k=draw.randint(2, 9))
            row.append(" ".join([*words, MARKS[chosen], '"open']))
        elif column in LABEL_COLUMNS:
            row.append(label)
        else:
            row.append(str(number) if column in INDEX_COLUMNS else "-")
    return row


def write_glue(root: Path) -> Path:
    """Write everything below ``root``: MRPC begins with a byte-order mark, CoLA has no header, MNLI has a folder within."""
    for folder, files in FILES.items():
        (root / folder / "original").mkdir(parents=True)
        for name, (columns, rows) in files.items():
            draw = random.Random(f"{columns} {rows}")  # so that AX/AX.tsv is diagnostic/diagnostic.tsv
            lines = [glue_row(folder, columns, number, draw) for number in range(rows)]
            if columns != COLA:
                lines.insert(0, list(columns))
            text = "".join("\t".join(line) + "\n" for line in lines)
            encoding = "utf-8-sig" if folder == "MRPC" else "utf-8"
            (root / folder / f"{name}.tsv").write_text(text, encoding=encoding)
    return root
