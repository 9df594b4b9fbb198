"""Files of a corpus: which ones are read, and that a digest is of the bytes there are now."""

import errno
import gzip
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import files
from datamodules.files import content_digest, files_below, suffix_of
from datamodules.sources import TextSource, open_source


def read(path: Path, **options: str) -> list[str]:
    return [text for text, _ in open_source(TextSource(str(path), **options), path.parent / "cache").pieces()]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(("a.txt", ".txt"), ("A.TXT", ".txt"), ("a.b.Csv", ".csv"), ("a.JSONL.gz", ".jsonl"), ("a.txt.GZ", ".txt")),
        *(("a.parquet", ".parquet"), ("a.parquet.gz", None), ("a.gz", None), ("a.txt.zst", None), ("txt", None)),
    ],
)
def test_suffixes_count_in_any_case_and_text_may_be_compressed(name: str, suffix: str | None) -> None:
    assert suffix_of(Path(name)) == suffix


def test_a_directory_is_read_without_what_is_hidden(tmp_path: Path) -> None:
    for name in (".hidden.txt", ".ipynb_checkpoints/a.txt", "sub/.git/b.txt"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("hidden")
    (tmp_path / "corpus" / "A.TXT").write_text("one")
    (tmp_path / "corpus" / "sub" / "b.txt.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "corpus" / "sub" / "c.JsonL.gz").write_bytes(gzip.compress(b'{"text": "three"}\n'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "corpus") == ["one", "two", "three"]


def test_a_directory_within_a_hidden_one_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "corpus").mkdir(parents=True)
    (tmp_path / ".cache" / "corpus" / "a.txt").write_text("one")
    assert read(tmp_path / ".cache" / "corpus") == ["one"]


def test_what_is_left_out_is_named_in_one_warning(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt.zst", "c.tsv", "d.arrow", "e.md", ".f.md"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="left out") as caught:
        assert files_below(tmp_path) == [tmp_path / "a.txt"]
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path}: 4 of 5 files left out (b.txt.zst, c.tsv, d.arrow, …); "
        "read are .txt, .jsonl, .json, .csv, .parquet, all but the last also with .gz"
    ]


def test_links_are_followed_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    for name in ("corpus/a.txt", "elsewhere/b.txt", ".hidden/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for name, target in (("linked", "elsewhere"), ("again", "elsewhere"), ("loop", "corpus"), ("shown", ".hidden")):
        (tmp_path / "corpus" / name).symlink_to(tmp_path / target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "corpus") == ["corpus/a.txt", "elsewhere/b.txt", ".hidden/c.txt"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.warns(UserWarning, match=r"1 of 2 files left out \(b\.txt, a link to nothing\)"):
        assert files_below(tmp_path) == [tmp_path / "a.txt"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)  # chmod does not keep out an administrator
    with pytest.raises(PermissionError, match="locked"):
        files_below(tmp_path)


def test_a_file_with_and_without_gz_would_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("one")
    (tmp_path / "a" / "b.txt.gz").write_bytes(gzip.compress(b"one"))
    with pytest.raises(ValueError, match=r"a/b\.txt is there with and without \.gz; keep one"):
        read(tmp_path)


def test_compressed_text_is_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    first, second = (
        open_source(TextSource(str(tmp_path / name)), tmp_path / "cache").fingerprint for name in ("a.csv", "b.csv.gz")
    )
    assert first == second


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no gzip", lambda data: data[:12] + b"\0" * 20])
def test_a_broken_archive_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(damage(gzip.compress(b"one " * 100 + os.urandom(100).hex().encode())))
    with pytest.raises(ValueError, match=r"a\.txt\.gz: not readable as gzip: ") as error:
        read(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "dev.tsv"])
def test_other_bytes_of_the_same_length_and_time_are_seen(tmp_path: Path, name: str) -> None:
    (file := tmp_path / name).write_text("one")
    before, first = file.stat(), content_digest(file, tmp_path / "cache")
    for text in ("two", "six"):
        file.write_text(text)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        now = file.stat()
        assert (now.st_size, now.st_mtime_ns, now.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
        second = content_digest(file, tmp_path / "cache")
        assert second != first
        first = second


def test_a_file_in_the_place_of_another_is_seen(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one"), ("b.txt", "two")):
        (tmp_path / name).write_text(text)
    time = (tmp_path / "a.txt").stat().st_mtime_ns
    first = content_digest(tmp_path / "a.txt", tmp_path / "cache")
    os.utime(tmp_path / "b.txt", ns=(time, time))
    (tmp_path / "b.txt").replace(tmp_path / "a.txt")
    assert content_digest(tmp_path / "a.txt", tmp_path / "cache") != first


def test_a_digest_that_was_cut_short_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "a.txt").write_text("one")
    digest = content_digest(file, tmp_path / "cache")
    (remembered,) = (tmp_path / "cache" / "digests").iterdir()
    remembered.write_bytes(digest[:5])
    assert content_digest(file, tmp_path / "cache") == digest == remembered.read_bytes()
    monkeypatch.setattr(files, "_checked_chunks", lambda file: pytest.fail(f"{file} was read again"))
    assert content_digest(file, tmp_path / "cache") == digest
