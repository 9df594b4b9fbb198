"""Rows and lines become documents in pieces of bounded size, or one line says which of them does not fit."""

import io
import json
import warnings
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from datamodules import documents
from datamodules.documents import Piece, check_column, parts, pieces_of_file
from datamodules.tokenizers import load_tokenizer


def pieces(file: Path, column: str = "text") -> list[Piece]:
    check_column(file, column)
    return list(pieces_of_file(file, column))


def complaint(file: Path, column: str = "text") -> str:
    """The error of a file, without its directory."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared by the caller)
        pieces(file, column)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{file.parent}/")


GOOD = '{"text": "good"}\n'


@pytest.mark.parametrize("good", [0, 2, 300])  # 300: not when the file is opened
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a"', "not readable as json: Expecting ',' delimiter"),
        ("plain text", "not readable as json: Expecting value"),
        ('{"text": "a"} {"text": "b"}', "not readable as json: Extra data"),
        ("[" * 100_000, "not readable as json: "),
        ('["a"]', "list where a JSON object with the text is expected"),
        ('"a"', "str where a JSON object with the text is expected"),
        ('{"text": 7}', "column 'text' holds int, not text"),
        ('{"text": ["a"]}', "column 'text' holds list, not text"),
        ('{"text": false}', "column 'text' holds bool, not text"),
        (r'{"text": "a\ud83d"}', "column 'text' is no text: surrogates not allowed"),
    ],
)
def test_a_row_of_json_that_does_not_fit_is_named_by_its_line(tmp_path: Path, good: int, row: str, message: str) -> None:
    (file := tmp_path / "a.jsonl").write_text(GOOD * good + "\n" + row + "\n" + GOOD)
    assert complaint(file).startswith(f"a.jsonl:{good + 2}: {message}")


def test_rows_without_text_are_counted_in_one_warning_that_names_the_first(tmp_path: Path) -> None:
    (file := tmp_path / "a.jsonl").write_text(GOOD + '{"text": null}\n' + GOOD + '{"other": "a"}\n{"text": ""}\n')
    with pytest.warns(UserWarning, match="left out") as caught:
        assert pieces(file) == [("good", True)] * 2
    assert [str(warning.message) for warning in caught] == [f"{file}:2: no text in column 'text'; 2 such rows are left out"]


def test_a_json_array_is_rows(tmp_path: Path) -> None:
    rows = [{"id": number, "text": f"text, {number}]"} for number in range(3)]
    for number, text in enumerate(
        (json.dumps(rows), json.dumps(rows, indent=1), "\n [] ", "".join(map(json.dumps, [rows])))
    ):
        (file := tmp_path / f"{number}.json").write_text(text)
        assert pieces(file) == ([] if "[] " in text else [(row["text"], True) for row in rows])
    (file := tmp_path / "lines.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert pieces(file) == [(row["text"], True) for row in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"},\n{"text": 7}]', "a.json:2: column 'text' holds int, not text"),
        ('[{"text": "a"},\n\n["a"]]', "a.json:3: list where a JSON object"),
        ('[{"text": "a"},\n{"text": "b"},\n', "a.json:3: not readable as json"),
        ('[{"text": "a"},\n{"text": b"}]', "a.json:2: not readable as json: Expecting value"),
        ('{\n"text": "a"\n}', "a.json:1: not readable as json"),
        ('[{"text": "a"}\n]\n[{"text": "b"}]\n', "a.json:2: not readable as json: more behind the end of the array"),
        ('[{"text": "a"}] garbage', "a.json:1: not readable as json: more behind the end of the array"),
    ],
)
def test_a_row_of_a_json_array_that_does_not_fit_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    (file := tmp_path / "a.json").write_text(text)
    assert complaint(file).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,text\n1,"two\nlines"\n2\n3,a\n', "a.csv:4: 1 columns, 2 expected (id, text)"),
        ("id,text\n1,a\n2,a,b\n", "a.csv:3: 3 columns, 2 expected (id, text)"),
        ('id,text\n1,a\n2,"open\n3,a\n', "a.csv:3: not readable as csv: unexpected end of data"),
        ("id,text\n1,a\n" + '2,"b"c\n', "a.csv:3: not readable as csv: ',' expected after '\"'"),
        ("id,text\n1,1.5\n2,-3\n", "a.csv:2: column 'text' holds numbers, not text"),
        ("id,other\n1,a\n", "a.csv: no column 'text'; there are id, other"),
        ("\ntext,text\na,b\n", "a.csv:2: column 'text' comes twice"),
    ],
)
def test_a_row_of_csv_that_does_not_fit_is_named_by_its_first_line(tmp_path: Path, text: str, message: str) -> None:
    (file := tmp_path / "a.csv").write_text(text)
    assert complaint(file) == message


def test_a_cell_of_csv_is_text_also_where_it_is_a_number_or_says_null(tmp_path: Path) -> None:
    (file := tmp_path / "a.csv").write_text('text\n1984\nnull\n\nNA\n" "\nNovel\n')
    assert [text for text, _ in pieces(file)] == ["1984", "null", "NA", "Novel"]


def test_a_row_of_parquet_that_does_not_fit_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": [1, 2]}).to_parquet(file)
    assert complaint(file) == "a.parquet: row 0: column 'text' holds int, not text"
    datasets.Dataset.from_dict({"text": [None, None, [1]]}).to_parquet(file)
    assert complaint(file) == "a.parquet: row 2: column 'text' holds list, not text"
    datasets.Dataset.from_dict({"text": ["a"] * 100 + [None]}).to_parquet(file)
    with pytest.warns(UserWarning, match=r"a\.parquet: row 100: no text in column 'text'; 1 such rows are left out"):
        assert pieces(file) == [("a", True)] * 100
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert complaint(file).startswith("a.parquet: not readable as parquet: ")


def test_a_header_alone_and_an_empty_file_have_no_rows(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text\n"), ("b.csv", ""), ("c.json", " \n"), ("d.jsonl", "\n\n")):
        (tmp_path / name).write_text(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert pieces(tmp_path / name) == []


TEXT = st.text(st.sampled_from("ab \u2003\tc"), max_size=60)


@given(TEXT, st.integers(1, 12))
def test_parts_of_a_document_are_bounded_and_lose_nothing(text: str, bound: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PART_CHARACTERS", bound)
        found = list(parts(text))
    assert "".join(part for part, _ in found) == text
    assert max(len(part) for part, _ in found) <= bound
    assert [ends for _, ends in found] == [False] * (len(found) - 1) + [True]


def words_by_document(found: list[Piece]) -> list[list[str]]:
    """Words of documents that may come in pieces, which are cut between words."""
    texts = [""]
    for text, ends in found:
        texts[-1] += " " + text
        texts += [""] * ends
    assert not texts.pop()  # every document was ended
    return [text.split() for text in texts]


@given(st.lists(st.text(st.sampled_from("ab  \t"), max_size=40), max_size=6))
def test_long_lines_are_cut_between_words_and_bounded(lines: list[str]) -> None:
    bound = max((len(word) for line in lines for word in line.split()), default=1) + 1
    whole = list(documents._paragraphs(io.StringIO("\n".join(lines))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PART_CHARACTERS", bound)
        patch.setattr(documents, "PIECE_CHARACTERS", bound)
        found = list(documents._paragraphs(io.StringIO("\n".join(lines))))
    assert words_by_document(found) == words_by_document(whole)
    assert all(text.strip() for text, _ in found)
    assert max((len(text) for text, _ in found), default=0) <= 4 * bound


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_a_long_document_has_the_tokens_it_has_in_one_piece(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(str(tokenizer_dir))
    text = "The sparse networks, without  gradients; " * 500
    file = tmp_path / f"long{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_dict({"text": [text]}).to_parquet(file)
    else:
        file.write_text({".txt": text, ".jsonl": json.dumps({"text": text}), ".csv": f'text\n"{text}"\n'}[suffix])
    monkeypatch.setattr(documents, "PART_CHARACTERS", 1000)
    found = pieces(file)
    assert len(found) > 20
    assert max(len(piece) for piece, _ in found) <= 2000
    assert [ends for _, ends in found] == [False] * (len(found) - 1) + [True]
    ids = [token for piece, _ in found for token in tokenizer(piece, add_special_tokens=False).input_ids]
    assert ids == tokenizer(text, add_special_tokens=False).input_ids
