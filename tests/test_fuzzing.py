"""Files that are nearly right are read, or are an error that a user can mend; ``benchmarks/fuzz.py`` does the same at length."""

from pathlib import Path

import pytest
from fuzzing import Fuzzed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS = ("mask file", "mask report", "packed file", "TSV", "JSON lines", "summary", "protocol")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    found = Fuzzed(tmp_path_factory.mktemp("fuzzed") / "root")
    assert tuple(found.kinds) == KINDS
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_or_a_clean_error(kind: str, fuzzed: Fuzzed) -> None:
    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(content=st.deferred(lambda: fuzzed.kinds[kind][0]))
    def read(content: bytes) -> None:
        fuzzed.read(kind, content)

    read()


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_others_are_made_from_is_right(kind: str, fuzzed: Fuzzed) -> None:
    """Or all of them would be refused at the same place."""
    assert fuzzed.read(kind, fuzzed.right[kind])


def test_a_reader_that_fails_is_found(fuzzed: Fuzzed, tmp_path: Path) -> None:
    fuzzed.kinds["broken"] = (st.binary(), tmp_path / "file", lambda file: file.read_bytes()[9])
    with pytest.raises(IndexError):
        fuzzed.read("broken", b"short")
    del fuzzed.kinds["broken"]
