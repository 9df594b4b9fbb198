"""Questions and their contexts in overlapping windows of tokens, and where in them an answer is."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

QUESTION_TOKENS = 64  # as in BERT's own finetuning; more are cut off
OUTSIDE = -1
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}  # of emoji


class Span(NamedTuple):
    """Characters of a context, from ``start`` up to, and without, ``end``."""

    start: int
    end: int


def question_limit(length: int, stride: int, special: int) -> int:
    """Most tokens of a question, so that a window of ``length`` has more of the context than its overlap with the next.

    Args:
        length: tokens a window.
        stride: of these, tokens of context that the next window has, too.
        special: special tokens of a pair.

    Raises:
        ValueError: there is no room for a question.
    """
    limit = min(QUESTION_TOKENS, length - stride - special - 1)
    if limit < 1:
        raise ValueError(f"data.stride is {stride}; less than data.length - {special + 1}, {length - special - 1}, expected")
    return limit


def shortened(questions: Sequence[str], tokenizer: PreTrainedTokenizerFast, limit: int) -> list[str]:
    """Questions without white space at the beginning and without what comes after ``limit`` tokens."""
    stripped = [question.lstrip() for question in questions]
    offsets = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [
        question[: pairs[limit - 1][1]] if len(pairs) > limit else question
        for question, pairs in zip(stripped, offsets, strict=True)
    ]


def with_marks(context: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ends of tokens moved behind the combining marks that follow, which tokenizers that strip accents leave out."""
    if context.isascii():
        return ends
    moved = ends.copy()
    for number, end in enumerate(ends.tolist()):
        while 0 < end < len(context) and (unicodedata.category(context[end]).startswith("M") or context[end] in _JOINERS):
            end += 1
        moved[number] = end
    return moved


def gold_tokens(starts: NDArray[np.int64], ends: NDArray[np.int64], answer: Span) -> tuple[int, int]:
    """First and last token of the answer in a window; both 0, the class token, where the window does not hold all of it.

    Args:
        starts: first character of each token of the window, (length,); ``OUTSIDE`` where it is not of the context.
        ends: the character behind its last, (length,).
        answer: in the context.
    """
    inside = np.flatnonzero(starts != OUTSIDE)
    if not inside.size or answer.start < 0:
        return 0, 0
    touched = inside[(ends[inside] > answer.start) & (starts[inside] < answer.end)]
    if not touched.size or starts[inside[0]] > answer.start or ends[inside[-1]] < answer.end:
        return 0, 0
    return int(touched[0]), int(touched[-1])


def windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Span | None],
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    stride: int,
) -> dict[str, list[Any]]:
    """All windows of some questions, in their order.

    Args:
        questions: one a context.
        contexts: of any length.
        answers: where each answer is; None for none.
        tokenizer: a fast one.
        length: tokens a window at most, special ones included.
        stride: tokens of context that neighbouring windows share.

    Returns:
        Columns ``question`` (which of the questions, from 0), ``input_ids``, ``token_type_ids``, ``length``, ``labels``
        (:func:`gold_tokens`), and ``char_starts`` and ``char_ends``, the characters of every token, ``OUTSIDE`` where it is
        none of the context.
    """
    limit = question_limit(length, stride, tokenizer.num_special_tokens_to_add(pair=True))
    encoded = tokenizer(
        shortened(questions, tokenizer, limit),
        list(contexts),
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=True,
    )
    columns: dict[str, list[Any]] = {name: [] for name in ("length", "labels", "char_starts", "char_ends")}
    owners: list[int] = encoded["overflow_to_sample_mapping"]
    for window, owner in enumerate(owners):
        of_context = np.array([sequence == 1 for sequence in encoded.sequence_ids(window)])
        offsets = np.array(encoded["offset_mapping"][window], dtype=np.int64)
        starts = np.where(of_context, offsets[:, 0], OUTSIDE)
        ends = np.where(of_context, with_marks(contexts[owner], offsets[:, 1]), OUTSIDE)
        answer = answers[owner]
        columns["labels"].append(list(gold_tokens(starts, ends, answer)) if answer else [0, 0])
        columns["char_starts"].append(starts.tolist())
        columns["char_ends"].append(ends.tolist())
        columns["length"].append(len(offsets))
    tokens = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
    return {"question": owners} | tokens | columns
