"""Every kind of source becomes the same stream of documents, or one clear error."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest

from datamodules import documents as document_files
from datamodules import files, sources
from datamodules.sources import OpenSource, TextSource, open_source

TEXTS = ['She said "no", twice.', "Zwei\nZeilen, größer.", "最後の文書"]


def opened(path: Path | str, **options: str) -> OpenSource:
    return open_source(TextSource(str(path), **options), Path(path).parent / "cache")


def documents(path: Path | str, **options: str) -> list[str]:
    assert all(ends for _, ends in opened(path, **options).pieces())
    return [text for text, _ in opened(path, **options).pieces()]


def write_txt(file: Path, texts: list[str]) -> None:
    file.write_text("\n\n".join(texts), encoding="utf-8")


def write_jsonl(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts), encoding="utf-8")


def write_csv(file: Path, texts: list[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "text"), *enumerate(texts)])


def write_parquet(file: Path, texts: list[str]) -> None:
    datasets.Dataset.from_dict({"id": range(len(texts)), "text": texts}).to_parquet(file)


WRITERS: dict[str, Callable[[Path, list[str]], None]] = {
    ".txt": write_txt,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_file_format_gives_the_same_documents(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](file := tmp_path / f"corpus [v1]*{suffix}", TEXTS)  # names are names, never patterns
    assert documents(file) == TEXTS


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](file := tmp_path / f"corpus{suffix}", TEXTS)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert documents(file) == TEXTS


def test_lines_are_paragraphs_and_empty_lines_end_documents(tmp_path: Path) -> None:
    (file := tmp_path / "corpus.txt").write_bytes(b"\n\n one \r\ntwo\r\n\r\n \t \n\nthree")
    assert documents(file) == ["one\ntwo", "three"]


def test_rows_without_text_are_no_documents(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": None}, {"text": ""}, {"text": " \n"}, {"other": 1}, {"text": "two"}]
    (file := tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert documents(file) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_an_empty_file_has_no_documents(tmp_path: Path, suffix: str) -> None:
    (file := tmp_path / f"empty{suffix}").touch()
    assert documents(file) == []


def test_a_header_alone_has_no_documents(tmp_path: Path) -> None:
    (file := tmp_path / "header.csv").write_text("id,text\n")
    assert documents(file) == []


def test_a_saved_dataset_gives_the_split_that_is_asked_for(tmp_path: Path) -> None:
    train, test = (datasets.Dataset.from_dict({"body": texts}) for texts in (TEXTS, ["held out"]))
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    train.save_to_disk(tmp_path / "one")
    assert documents(tmp_path / "one", column="body") == documents(tmp_path / "both", column="body") == TEXTS
    assert documents(tmp_path / "both", column="body", split="test") == ["held out"]
    with pytest.raises(ValueError, match="no split 'dev'; there are train, test"):
        opened(tmp_path / "both", column="body", split="dev")


def test_a_row_of_a_saved_dataset_that_does_not_fit_is_named_by_its_number(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": [None] * 99 + [[1]]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved: row 99: column 'text' holds list, not text"):
        documents(tmp_path / "saved")


def test_a_directory_is_its_readable_files_in_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a" / "z.txt").write_text("one")
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n')
    (tmp_path / "notes.md").write_text("not read")
    assert documents(tmp_path) == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["{}-00000-of-00001.parquet", "{}-00000-of-00001-b42a775f407cee45.parquet", "{}.jsonl"])
def test_a_directory_in_the_layout_of_the_hub_gives_the_split_that_is_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        file = tmp_path / "hub" / "data" / name.format(split)
        WRITERS[file.suffix](file, [f"{split} one", f"{split} two"])
    (tmp_path / "hub" / "more.txt").write_text("of no split")
    assert documents(tmp_path / "hub") == ["train one", "train two", "of no split"]
    assert documents(tmp_path / "hub", split="test") == ["test one", "test two"]
    with pytest.raises(ValueError, match=r"hub: no split 'dev'; there are test, train, validation"):
        opened(tmp_path / "hub", split="dev")


@pytest.mark.parametrize("names", [["a/train.txt", "b/test.txt"], ["a.txt", "test.txt"], ["testing.txt", "train.txt"]])
def test_a_file_that_is_called_after_a_split_alone_is_of_the_whole(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(name)
    assert documents(tmp_path / "corpus") == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "no split 'test'; there are train"),
        ({"name": "en"}, "name or revision 'en' is of a data set on the hub, this is on this machine"),
        ({"revision": "main"}, "name or revision 'main' is of a data set on the hub"),
    ],
)
def test_an_option_that_means_nothing_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    (tmp_path / "corpus").mkdir()
    write_txt(tmp_path / "corpus" / "a.txt", TEXTS)
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "corpus", tmp_path / "corpus" / "a.txt", tmp_path / "saved", "docstrings"):
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            open_source(TextSource(str(path), **options), tmp_path / "cache")


def test_a_split_that_was_saved_by_itself_has_its_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": TEXTS}, split="validation").save_to_disk(tmp_path / "saved")
    assert documents(tmp_path / "saved") == documents(tmp_path / "saved", split="validation") == TEXTS


def test_a_long_document_comes_in_pieces_and_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "PIECE_CHARACTERS", 10)
    paragraphs = ["first paragraph", "second", "third", "fourth paragraph"]
    (file := tmp_path / "corpus.txt").write_text("\n".join(paragraphs) + "\n\nnext\n")
    pieces = list(opened(file).pieces())
    assert [ends for _, ends in pieces] == [False, False, True, True]
    assert "\n".join(text for text, _ in pieces[:-1]).split("\n") == paragraphs


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"latin{suffix}"
    file.write_bytes("one\ntwo\nCafé\nfour\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"latin{suffix}:3: not UTF-8"):
        opened(file)


def test_a_character_cut_off_by_the_end_of_the_file_is_named_by_line(tmp_path: Path) -> None:
    (file := tmp_path / "cut.txt").write_bytes("one\nCafé".encode()[:-1])
    with pytest.raises(ValueError, match=r"cut\.txt:2: not UTF-8"):
        opened(file)


def test_a_character_across_the_border_of_two_chunks_is_whole(tmp_path: Path) -> None:
    long_line = b"x" * ((1 << 22) - 1) + "é\n".encode()
    (file := tmp_path / "long.txt").write_bytes(long_line)
    pieces = list(opened(file).pieces())
    assert "".join(text for text, _ in pieces) == long_line.decode().strip()
    assert [ends for _, ends in pieces] == [False] * (len(pieces) - 1) + [True]
    file.write_bytes(long_line + b"one\n\xff")
    with pytest.raises(ValueError, match=r"long\.txt:3: not UTF-8"):
        opened(file)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_missing_column_lists_the_columns_there_are(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](file := tmp_path / f"corpus{suffix}", TEXTS)
    with pytest.raises(ValueError, match=rf"corpus{suffix}: no column 'body'; there are id, text"):
        opened(file, column="body")


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    (file := tmp_path / "numbers.csv").write_text("text\n1\n2\n")
    with pytest.raises(ValueError, match=r"numbers\.csv:2: column 'text' holds numbers, not text"):
        list(opened(file).pieces())


@pytest.mark.parametrize(("name", "where"), [("broken.jsonl", ":1"), ("broken.json", ":1"), ("broken.parquet", "")])
def test_a_broken_file_is_named_with_its_format(tmp_path: Path, name: str, where: str) -> None:
    (file := tmp_path / name).write_text('{"text": \n')
    with pytest.raises(ValueError, match=rf"{name}{where}: not readable as {file.suffix[1:].rstrip('l')}"):
        opened(file)


@pytest.mark.parametrize("path", ["nowhere.txt", "nowhere.CSV.gz", "./nowhere", "/no/such/place", "a/b/c", "tests/nothing"])
def test_a_path_that_is_not_there_is_not_found(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{path}: no such file or directory") as error:
        opened(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nobody/nothing", "nothing"])
def test_what_is_neither_a_path_nor_on_the_hub_is_not_found(path: str) -> None:
    message = (
        f"^{path}: neither a data set on this machine .* nor on the hub: HF_HUB_OFFLINE is set, and the cache has none$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        opened(path)


def test_a_place_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(ValueError, match=r"no \.txt, .* file in this directory"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.md: unknown kind of file; one of \.txt"):
        opened(tmp_path / "notes.md")


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_fingerprint_follows_the_text_and_not_the_place(tmp_path: Path, suffix: str) -> None:
    for name, texts in (("a", TEXTS), ("same", TEXTS), ("other", [*TEXTS, "one more"])):
        WRITERS[suffix](tmp_path / f"{name}{suffix}", texts)
    first, same, other = (opened(tmp_path / f"{name}{suffix}").fingerprint for name in ("a", "same", "other"))
    assert first == same != other


def test_the_fingerprint_follows_the_column(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": TEXTS, "b": TEXTS[::-1]}).save_to_disk(tmp_path / "saved")
    assert opened(tmp_path / "saved", column="a").fingerprint != opened(tmp_path / "saved", column="b").fingerprint


def test_a_file_is_read_for_its_fingerprint_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "a.txt").write_text("one")
    first = opened(file).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(files, "_checked_chunks", lambda file: pytest.fail(f"{file} was read again"))
        assert opened(file).fingerprint == first
    file.write_text("another")
    assert opened(file).fingerprint != first
    (copy := tmp_path / "b.txt").write_text("one")
    assert opened(copy).fingerprint == first  # keyed by content, not by name


def test_docstrings_are_extracted_once_and_a_failed_extraction_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[list[str]]:
        yield ["half"]
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "docstring_documents", broken)
    with pytest.raises(KeyboardInterrupt):
        open_source(TextSource("docstrings"), tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    extractions = iter([iter([["one", "two"], ["three"]])])  # a second one would be an error
    monkeypatch.setattr(sources, "docstring_documents", lambda: next(extractions))
    first, second = (open_source(TextSource("docstrings"), tmp_path) for _ in range(2))
    assert list(first.pieces()) == list(second.pieces()) == [("one\ntwo", True), ("three", True)]
    assert first.fingerprint == second.fingerprint

    (file,) = tmp_path.glob("docstrings-*/docstrings.txt")
    file.write_text("one\n")
    monkeypatch.setattr(sources, "docstring_documents", lambda: iter([["one", "two"], ["three"]]))
    with pytest.warns(UserWarning, match=r"not whole \(docstrings.txt has 4 bytes, 16 expected\); it is made again"):
        assert open_source(TextSource("docstrings"), tmp_path).fingerprint == first.fingerprint
