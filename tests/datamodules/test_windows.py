"""Windows of contexts: gold answers are found in them to the character, whatever the text and however long."""

import itertools
import json
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.finetuning import packaged_minilm
from datamodules.tokenizers import train_tokenizer
from datamodules.windows import OUTSIDE, Span, question_limit, windows

PIECES = (
    "sparse",
    "weights",
    "7½",
    "naïve",
    "cafe\u0301",
    "👍🏽",
    "👨\u200d👩\u200d👧",
    "東京",
    "e\u0323\u0302",
    "don't",
    "β",
    "❤\ufe0f",
    "ﬁne",
)


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerFast:
    """BERT's uncased vocabulary, which knows neither accents nor emoji."""
    return AutoTokenizer.from_pretrained(packaged_minilm())


def recovered(found: dict, context: str) -> list[str]:
    """The text of the gold span in every window that has one."""
    spans = zip(found["labels"], found["char_starts"], found["char_ends"], strict=True)
    return [context[starts[first] : ends[last]] for (first, last), starts, ends in spans if (first, last) != (0, 0)]


@pytest.mark.parametrize("context", ["राहुल एक हिन्दु व्यक्ति है और वह दिल्ली में रहता है", "ภาษา ไทย เป็น ภาษา ที่ มี ใน นี้"])
def test_vowel_signs_are_part_of_an_answer_whatever_their_combining_class(context: str) -> None:
    """Devanagari and Thai have marks of class 0, which are stripped with the accents."""
    tokenizer = train_tokenizer(lambda: iter([context] * 20), 200)
    for word in context.split():
        answer = Span(context.index(word), context.index(word) + len(word))
        assert recovered(windows(["which?"], [context], [answer], tokenizer, 64, 8), context) == [word]


def test_marks_that_take_room_are_part_of_an_answer_too() -> None:
    """ALBERT's tokenizer strips marks of every kind, BERT's the others alone."""
    context = "वह हिन्दी भाषा में गाता है"
    tokenizer = train_tokenizer(lambda: iter([context] * 20), 200)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    for word in context.split():
        answer = Span(context.index(word), context.index(word) + len(word))
        assert recovered(windows(["which?"], [context], [answer], tokenizer, 64, 8), context) == [word]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=120), st.integers(0, 10_000))
def test_an_answer_of_whole_words_is_recovered_to_the_character(
    minilm: PreTrainedTokenizerFast, words: list[str], seed: int
) -> None:
    """Emoji and combining characters among them; some window holds every answer that is no longer than what two share."""
    draw = random.Random(seed)
    context = draw.choice(["", " ", "\n\n"]) + draw.choice([" ", "  "]).join(words)
    first = draw.randrange(len(words))
    begin = context.index(words[0]) + len((" " if "  " not in context[2:] else "  ").join(words[:first]))
    begin = context.index(words[first], begin)
    answer = Span(begin, begin + len(words[first]))
    found = windows(["which one?"], [context], [answer], minilm, length=48, stride=24)
    texts = recovered(found, context)
    assert texts
    assert set(texts) == {words[first]}


def test_windows_cover_the_context_and_share_the_stride(minilm: PreTrainedTokenizerFast) -> None:
    context = " ".join(PIECES[0:2] * 100)  # a token a word
    found = windows(["which?"] * 2, [context, "short"], [None, None], minilm, length=40, stride=12)
    assert found["question"] == [0] * (len(found["question"]) - 1) + [1]
    kept = [[start for start in starts if start != OUTSIDE] for starts in found["char_starts"][:-1]]
    room = 40 - 3 - 2  # special tokens, and a question of two
    assert [len(window) for window in kept[:-1]] == [room] * (len(kept) - 1)
    assert all(before[-12:] == after[:12] for before, after in itertools.pairwise(kept))
    assert sorted({start for window in kept for start in window}) == [
        n for n in range(len(context)) if n == 0 or context[n - 1] == " "
    ]
    assert found["length"] == [len(tokens) for tokens in found["input_ids"]]
    assert {tuple(label) for label in found["labels"]} == {(0, 0)}
    assert all(tokens[0] == minilm.cls_token_id for tokens in found["input_ids"])


def test_an_answer_at_the_edge_counts_only_where_all_of_it_is(minilm: PreTrainedTokenizerFast) -> None:
    words = PIECES[0:2] * 30
    context = " ".join(words)
    for first in range(0, 60, 7):
        start = len(" ".join(words[:first])) + (first > 0)
        text = " ".join(words[first : first + 3])
        found = windows(["which?"], [context], [Span(start, start + len(text))], minilm, length=24, stride=8)
        whole = 0
        for (begin, end), starts, ends in zip(found["labels"], found["char_starts"], found["char_ends"], strict=True):
            places = [place for place in range(len(starts)) if start <= starts[place] and ends[place] <= start + len(text)]
            inside = [place for place in places if starts[place] != OUTSIDE]
            assert (begin, end) == ((inside[0], inside[-1]) if len(inside) == 3 else (0, 0))
            whole += len(inside) == 3
        assert whole >= 1


def test_a_long_question_leaves_room(minilm: PreTrainedTokenizerFast) -> None:
    found = windows([" sparse" * 200], ["weights " * 300], [None], minilm, length=128, stride=32)
    assert max(found["length"]) == 128
    assert found["input_ids"][0].index(minilm.sep_token_id) == 1 + 64
    assert question_limit(32, 8, 3) == 20
    with pytest.raises(ValueError, match=r"data.stride is 29; less than data.length - 4, 28, expected"):
        question_limit(32, 29, 3)


@pytest.mark.realdata
def test_every_gold_answer_of_real_questions_is_recovered(realdata: Path, minilm: PreTrainedTokenizerFast) -> None:
    """To the character, but 17 of 3,939 that begin or end within a word piece: these are in the fewest pieces that hold them."""
    content = json.loads((realdata / "squad" / "train-subset-v1.1.json").read_text(encoding="utf-8"))
    within = total = 0
    for paragraph in (paragraph for article in content["data"] for paragraph in article["paragraphs"]):
        context, qas = paragraph["context"], paragraph["qas"]
        golds = [(qa["answers"][0]["answer_start"], qa["answers"][0]["text"]) for qa in qas]
        spans = [Span(start, start + len(text)) for start, text in golds]
        found = windows([qa["question"] for qa in qas], [context] * len(qas), spans, minilm, length=128, stride=64)
        for number, (_, text) in enumerate(golds):
            own = {name: [v for v, q in zip(found[name], found["question"], strict=True) if q == number] for name in found}
            texts = set(recovered(own, context))
            total += 1
            assert len(texts) == 1, text
            (only,) = texts
            if only != text:
                within += 1
                assert text in only
                assert " " not in only.replace(text, "", 1)  # the rest of the pieces at either end
            assert unicodedata.normalize("NFC", text) in unicodedata.normalize("NFC", only)
    assert (within, total) == (17, 3939)
