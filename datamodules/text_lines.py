"""The text of a file whose lines count."""

from pathlib import Path


def decoded(file: Path) -> str:
    """The text of a file, without a byte-order mark.

    Raises:
        ValueError: not UTF-8, or a NUL byte in it, with the line.
    """
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}:{line}: not UTF-8 ({error.reason}); convert the file first") from None
    if "\0" in text:
        raise ValueError(f"{file}:{text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL byte; this is no text in UTF-8")
    return text
