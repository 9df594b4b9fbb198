"""The official rules of SQuAD, checked against a plain reading of them, and n-best spans against all spans there are."""

import itertools
import math
import random
import re
import string

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad

from objectives.squad import (
    OUT_OF_REACH,
    Answer,
    Candidate,
    answer_scores,
    answers_of_windows,
    best_spans,
    best_threshold,
    exact_match,
    normalised,
    probabilities,
    span_logits,
    span_loss,
    squad2_scores,
    squad_scores,
    token_f1,
)

WORDS = ("the", "a", "An", "Denver", "Broncos", "broncos!", "24–10", "U.S.", "café", "1,000", "-", "theme", "'s", "naïve")


def plainly(text: str) -> list[str]:
    """Words of a normalised answer, character by character."""
    kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split() if word]


def plain_scores(answer: str, gold: str, version: int) -> tuple[float, float]:
    own, right = plainly(answer), plainly(gold)
    exact = float(" ".join(own) == " ".join(right))
    if version == 2 and (not own or not right):
        return exact, float(own == right)
    rest, same = list(right), 0
    for word in own:
        if word in rest:
            rest.remove(word)
            same += 1
    if same == 0:
        return exact, 0.0
    precision, recall = same / len(own), same / len(right)
    return exact, 2 * precision * recall / (precision + recall)


def random_answer(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Denver  Broncos!", "denver broncos"),
        ("an", ""),
        ("Theatre of the absurd", "theatre of absurd"),
        ("U.S.-based\ta", "usbased"),
        ("“The” answer", "“ ” answer"),  # punctuation outside ASCII stays, and is no letter
    ],
)
def test_normalisation_by_hand(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def test_scores_by_hand() -> None:
    assert exact_match("The Broncos.", "broncos") == 1.0
    assert token_f1("the Denver Broncos of 2015", "Denver Broncos") == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert token_f1("Denver Denver", "Denver") == pytest.approx(2 / 3)
    assert (token_f1("", ""), token_f1("x", ""), token_f1("", "x")) == (1.0, 0.0, 0.0)
    assert answer_scores("", []) == (1.0, 1.0)
    assert answer_scores("x", []) == (0.0, 0.0)
    assert answer_scores("", ["the", "x"]) == (0.0, 0.0)  # a gold answer of nothing does not count beside another


def test_a_thousand_answers_of_version_1() -> None:
    draw = random.Random(1)
    golds = {str(n): [random_answer(draw) for _ in range(draw.randint(1, 4))] for n in range(1000)}
    answers = {n: draw.choice([*right, random_answer(draw)]) for n, right in golds.items() if draw.random() < 0.98}
    best = [
        [
            max(plain_scores(answers[n], gold, 1)[metric] for gold in right) if n in answers else 0.0
            for n, right in golds.items()
        ]
        for metric in (0, 1)
    ]
    found = squad_scores(answers, golds)
    assert found == {
        "exact_match": pytest.approx(sum(best[0]) / 1000, abs=1e-12),
        "f1": pytest.approx(sum(best[1]) / 1000, abs=1e-12),
    }
    assert all(0.3 < score < 0.9 for score in found.values())


def test_torchmetrics_scores_a_thousand_answers_alike() -> None:
    """But for answers of nothing, where it follows version 2.0."""
    draw = random.Random(2)
    words = [word for word in WORDS if normalised(word)]
    golds = {str(n): [" ".join(draw.choices(words, k=3)) for _ in range(3)] for n in range(1000)}
    answers = {n: draw.choice([*right, " ".join(draw.choices(words, k=2))]) for n, right in golds.items()}
    theirs = squad(
        [{"prediction_text": answer, "id": n} for n, answer in answers.items()],
        [{"answers": {"answer_start": [0] * 3, "text": right}, "id": n} for n, right in golds.items()],
    )
    ours = squad_scores(answers, golds)
    assert {name: 100 * score for name, score in ours.items()} == pytest.approx(
        {name: float(score) for name, score in theirs.items()}, rel=1e-5
    )


def swept_threshold(scores: list[float], odds: list[float], has_answer: list[bool], said: list[bool]) -> tuple[float, float]:
    """Best mean score over all places between questions sorted by their odds, and the odds there; the first of equals."""
    order = sorted(range(len(odds)), key=lambda place: odds[place])
    best, threshold = sum(not has for has in has_answer), 0.0
    current: float = best
    for place in order:
        current += scores[place] if has_answer[place] else -1 if said[place] else 0
        if current > best:
            best, threshold = current, odds[place]
    return best / len(odds), threshold


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_answers_of_version_2(seed: int) -> None:
    draw = random.Random(seed)
    golds = {
        str(n): [random_answer(draw) for _ in range(draw.randint(1, 3))] if draw.random() < 0.6 else [] for n in range(1000)
    }
    answers = {n: draw.choice([*right, random_answer(draw), ""]) for n, right in golds.items()}
    odds = {n: round(draw.gauss(-1 if right else 1, 2), 1) for n, right in golds.items()}  # with ties
    found = squad2_scores(answers, odds, golds)
    for metric, name in enumerate(("exact_match", "f1")):
        scores = []
        for n, right in golds.items():
            counted = [gold for gold in right if plainly(gold)] or [""]
            scores.append(max(plain_scores(answers[n], gold, 2)[metric] for gold in counted))
        has, said = [bool(right) for right in golds.values()], [bool(answer) for answer in answers.values()]
        best, threshold = swept_threshold(scores, list(odds.values()), has, said)
        assert found[name] == pytest.approx(best, abs=1e-12)
        assert found[f"{name}_threshold"] == threshold
        at_zero = [float(not there) if odds[n] > 0 else score for n, there, score in zip(golds, has, scores, strict=True)]
        assert found[f"{name}_at_0"] == pytest.approx(sum(at_zero) / 1000, abs=1e-12)


def test_where_nothing_is_known_nothing_is_answered() -> None:
    nothing = best_threshold(np.zeros(3), np.array([1.0, 2.0, 3.0]), np.array([False, False, True]), np.ones(3, bool))
    assert nothing == (2 / 3, 0.0)


def all_spans(start: torch.Tensor, end: torch.Tensor, allowed: torch.Tensor, longest: int) -> list[tuple[float, int, int]]:
    """Score, first and last token of every span, best first."""
    places = torch.nonzero(allowed).flatten().tolist()
    pairs = ((i, j) for i, j in itertools.product(places, places) if i <= j < i + longest)
    return sorted(((float(start[i]) + float(end[j]), i, j) for i, j in pairs), reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 25), st.integers(0, 10_000))
def test_the_best_of_all_spans(length: int, longest: int, n_best: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 3, length, generator=draw, dtype=torch.float64)
    allowed = torch.zeros(3, length, dtype=torch.bool)
    for row, first in enumerate(torch.randint(length, (3,), generator=draw).tolist()):
        allowed[row, first:] = True
    found = best_spans(start, end, allowed, n_best, longest)
    for row in range(3):
        expected = all_spans(start[row], end[row], allowed[row], longest)[:n_best]
        spans = [
            (float(a + b), int(i), int(j))
            for i, j, a, b in zip(*(values[row] for values in found), strict=True)
            if math.isfinite(a + b)
        ]
        assert [span[1:] for span in spans] == [span[1:] for span in expected]
        assert [span[0] for span in spans] == pytest.approx([span[0] for span in expected], abs=1e-12)
        assert found.first.shape == (3, n_best)


def test_windows_of_a_context_answer_together() -> None:
    """The same span in two windows counts once, at its better place; nothing counts where it is least likely."""
    kept = {
        "question": torch.tensor([1, 0, 1]),
        "null_start": torch.tensor([5.0, 1.0, 2.0]),
        "null_end": torch.tensor([5.0, 1.0, 2.5]),
        "char_start": torch.tensor([[0, 4], [0, 0], [4, 8]]),
        "char_end": torch.tensor([[3, 7], [3, 3], [7, 9]]),
        "start_logit": torch.tensor([[1.0, 2.0], [0.5, -math.inf], [3.0, 1.5]]),
        "end_logit": torch.tensor([[1.0, 2.0], [0.5, -math.inf], [3.0, 1.5]]),
    }
    first, second = answers_of_windows(kept, ["abc", "abc def 7"])
    assert (first.text, first.null_odds, len(first.candidates)) == ("abc", 1.0, 1)
    assert [each.text for each in second.candidates] == ["def", "7", "abc"]
    assert (second.candidates[0].start_logit, second.null_odds) == (3.0, 4.5 - 6.0)
    expected = torch.tensor([6.0, 3.0, 2.0], dtype=torch.float64).softmax(0).tolist()
    assert probabilities(second.candidates) == pytest.approx(expected)
    assert answers_of_windows(kept, ["abc", "abc def 7", "unseen"])[2] == Answer([], Candidate("", 0.0, 0.0))
    assert [each.text for each in answers_of_windows(kept, ["abc", "abc def 7"], n_best=2)[1].candidates] == ["def", "7"]


def test_loss_by_hand_and_padding_of_no_weight() -> None:
    start, end = torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1.0, 0.0, 9.0]])
    logits = span_logits(start, end, torch.tensor([[1, 1, 0]]))
    assert logits.shape == (2, 3)
    assert logits[:, 2].tolist() == [OUT_OF_REACH] * 2
    labels = torch.tensor([[1, 0]])
    by_hand = (math.log(math.exp(0) + math.exp(2)) - 2 + math.log(math.exp(1) + math.exp(0)) - 1) / 2
    assert float(span_loss(logits, labels)) == pytest.approx(by_hand, rel=1e-6)
    assert span_loss(logits, labels, reduction="none").tolist() == pytest.approx([by_hand], rel=1e-6)
