"""Schemes of tags and scores of entities, against a plain count of entities and seqeval itself."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from objectives.beyond_glue import TAGS
from objectives.masked_lm import IGNORE_INDEX
from objectives.tagging import entity_scores, tag_loss, to_iob2

Entity = tuple[int, int, str]


def entities(tags: list[str]) -> set[Entity]:
    """First word, word behind the last, and type of each entity; a new type, or ``B-``, begins one."""
    found, start = set(), 0
    for place in range(len(tags) + 1):
        before, here = (tags[place - 1] if place else "O"), (tags[place] if place < len(tags) else "O")
        if before != "O" and (here[0] != "I" or here[2:] != before[2:]):
            found.add((start, place, before[2:]))
        if here[0] == "B" or (here[0] == "I" and here[2:] != before[2:]):
            start = place
    return found


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC", "B-PER B-LOC"),
        ("B-PER I-PER O B-LOC B-LOC", "B-PER I-PER O B-LOC B-LOC"),
        ("O", "O"),
    ],
)
def test_schemes_by_hand(tags: str, expected: str) -> None:
    assert to_iob2(tags.split()) == expected.split()


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_the_entities_stay_what_they_are(tags: list[str]) -> None:
    converted = to_iob2(tags)
    assert entities(converted) == entities(tags)
    assert to_iob2(converted) == converted
    assert all(tag[0] != "I" or before[2:] == tag[2:] for before, tag in zip(["O", *converted], converted, strict=False))


def test_a_thousand_sentences() -> None:
    draw = random.Random(0)
    gold = [to_iob2(draw.choices(TAGS, k=draw.randint(1, 12))) for _ in range(1000)]
    own = [[tag if draw.random() < 0.8 else draw.choice(TAGS) for tag in tags] for tags in gold]
    found = entity_scores(own, gold)
    right = sum(len(entities(a) & entities(b)) for a, b in zip(own, gold, strict=True))
    said, there = (sum(len(entities(tags)) for tags in side) for side in (own, gold))
    assert found["precision"] == pytest.approx(right / said, abs=1e-12)
    assert found["recall"] == pytest.approx(right / there, abs=1e-12)
    assert found["f1"] == pytest.approx(2 * right / (said + there), abs=1e-12)
    assert found["f1"] == pytest.approx(f1_score(gold, own), abs=1e-12)
    assert found["f1_strict"] == pytest.approx(f1_score(gold, own, mode="strict", scheme=IOB2), abs=1e-12)
    assert found["f1_strict"] != found["f1"]


def test_no_entity_at_all() -> None:
    assert entity_scores([["O", "O"]], [["B-PER", "O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "f1_strict": 0.0}


def test_the_loss_is_that_of_first_sub_tokens() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE_INDEX, 3, IGNORE_INDEX], [0, IGNORE_INDEX, 8]])
    expected = -logits.log_softmax(-1)[[1, 3, 5], [3, 0, 8]]
    torch.testing.assert_close(tag_loss(logits, labels, reduction="none"), expected)
    torch.testing.assert_close(tag_loss(logits, labels), expected.mean())
    assert float(tag_loss(logits, torch.full((2, 3), IGNORE_INDEX))) == 0.0
