"""Extractive question answering: scores by the rules of the official SQuAD evaluations, and n-best spans.

Rajpurkar et al. 2016 (arXiv 1606.05250), section 6; with unanswerable questions Rajpurkar, Jia and Liang 2018
(arXiv 1806.03822). Scores are fractions of 1.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from objectives.beyond_glue import MAX_ANSWER_TOKENS, N_BEST
from objectives.masked_lm import IGNORE_INDEX

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
THRESHOLD = "_threshold"
"""Ends the name of a score that is no score but where another has its best."""
OUT_OF_REACH = -1e4
"""Logit of a position that is padding: finite, as divergences have to be, and of no weight."""


def normalised(answer: str) -> str:
    """Lower-case, without ASCII punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same once :func:`normalised`."""
    return float(normalised(answer) == normalised(gold))


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of words; of nothing it is 1 against nothing and 0 against anything."""
    own, right = normalised(answer).split(), normalised(gold).split()
    if not own or not right:
        return float(own == right)
    common = sum((Counter(own) & Counter(right)).values())
    return 2 * common / (len(own) + len(right))


def answer_scores(answer: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 against the gold answer that is nearest; of an unanswerable question, without any, the right is ``""``.

    A gold answer that normalises to nothing does not count beside others, as in the evaluation of version 2.0.
    """
    counted = [gold for gold in golds if normalised(gold)] or [""]
    return max(exact_match(answer, gold) for gold in counted), max(token_f1(answer, gold) for gold in counted)


def squad_scores(answers: Mapping[str, str], golds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Means over all questions of version 1.1; a question without an answer in ``answers`` counts as wrong.

    An answer that normalises to nothing has no word in common with any, so that its F1 is 0, as in the evaluation of version 1.1.

    Args:
        answers: id of a question → text.
        golds: id → all gold answers.
    """
    totals = {"exact_match": 0.0, "f1": 0.0}
    for question, right in golds.items():
        if question in answers:
            answer = answers[question]
            totals["exact_match"] += max(exact_match(answer, gold) for gold in right)
            totals["f1"] += max(token_f1(answer, gold) for gold in right) if normalised(answer) else 0.0
    return {name: total / len(golds) for name, total in totals.items()}


class Threshold(NamedTuple):
    """The mean score at the best threshold of the no-answer odds, and the threshold."""

    score: float
    threshold: float


def best_threshold(
    scores: NDArray[np.float64], null_odds: NDArray[np.float64], has_answer: NDArray[np.bool_], said: NDArray[np.bool_]
) -> Threshold:
    """The no-answer threshold that the official evaluation of version 2.0 finds: questions with odds above it get no answer.

    From all questions unanswered, they are answered one by one, in order of their odds; the first best place is taken.

    Args:
        scores: of each question if it is answered, (N,).
        null_odds: how much likelier no answer is, (N,).
        has_answer: whether the question has one, (N,).
        said: whether the answer that would be given is not empty, (N,).
    """
    order = np.argsort(null_odds, kind="stable")
    gains = np.where(has_answer, scores, -said.astype(float))[order]
    totals = (~has_answer).sum() + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(np.argmax(totals))
    return Threshold(float(totals[best]) / len(scores), float(null_odds[order[best - 1]]) if best else 0.0)


def squad2_scores(
    answers: Mapping[str, str], null_odds: Mapping[str, float], golds: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """``exact_match`` and ``f1`` at the best thresholds of each, these thresholds, and both scores at a threshold of 0.

    Args:
        answers: id of a question → the best text that is an answer.
        null_odds: id → score of no answer minus that of the answer.
        golds: id → all gold answers; none where there is no answer.
    """
    pairs = [answer_scores(answers[question], right) for question, right in golds.items()]
    odds = np.array([null_odds[question] for question in golds])
    has_answer = np.array([bool(right) for right in golds.values()])
    said = np.array([bool(answers[question]) for question in golds])
    found: dict[str, float] = {}
    for name, column in zip(("exact_match", "f1"), zip(*pairs, strict=True), strict=True):
        scores = np.array(column)
        best = best_threshold(scores, odds, has_answer, said)
        at_zero = np.where(odds > 0, ~has_answer, scores)
        found |= {name: best.score, f"{name}{THRESHOLD}": best.threshold, f"{name}_at_0": float(at_zero.mean())}
    return found


def span_logits(start: Tensor, end: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Logits over positions of starts and ends, one after the other of each window: (2 · batch, length) of twice (batch, length).

    Padding is out of reach, so that neither loss nor divergence depends on the rest of a batch.
    """
    both = torch.stack([start, end], dim=1)
    if attention_mask is not None:
        both = both.masked_fill(attention_mask[:, None] == 0, OUT_OF_REACH)
    return both.flatten(0, 1)


def span_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats, the mean of that of starts and of ends.

    Args:
        logits: of :func:`span_logits`.
        labels: first and last token of the answer, (batch, 2); 0, which is the class token, where it is not in the window.
        reduction: ``mean``, or ``none`` for the loss of each window.
    """
    losses = F.cross_entropy(logits.float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none").view(-1, 2)
    return losses.mean() if reduction == "mean" else losses.mean(1)


class Spans(NamedTuple):
    """The best spans of each window, best first: tokens and logits, each (batch, n_best); a span that is none has -inf."""

    first: Tensor
    last: Tensor
    start_logit: Tensor
    end_logit: Tensor


def best_spans(
    start: Tensor, end: Tensor, allowed: Tensor, n_best: int = N_BEST, max_tokens: int = MAX_ANSWER_TOKENS
) -> Spans:
    """All spans of at most ``max_tokens`` allowed tokens compete.

    Args:
        start: logits of starts, (batch, length).
        end: logits of ends, (batch, length).
        allowed: tokens of the context, (batch, length) bool; they stand side by side.
        n_best: spans a window.
        max_tokens: of a span.
    """
    length = start.size(1)
    start, end = (logits.double().masked_fill(~allowed, -math.inf) for logits in (start, end))
    ends = F.pad(end, (0, max_tokens - 1), value=-math.inf).unfold(1, max_tokens, 1)  # (batch, length, max_tokens)
    scores = (start.unsqueeze(2) + ends).flatten(1)
    scores = F.pad(scores, (0, max(0, n_best - scores.size(1))), value=-math.inf)  # spans that begin behind the window
    chosen = scores.topk(n_best, dim=1).indices
    first, last = chosen // max_tokens, chosen // max_tokens + chosen % max_tokens
    start_logit = start.gather(1, first.clamp(max=length - 1))
    end_logit = end.gather(1, last.clamp(max=length - 1)).masked_fill(last >= length, -math.inf)
    return Spans(first.clamp(max=length - 1), last.clamp(max=length - 1), start_logit, end_logit)


class Candidate(NamedTuple):
    """One answer to a question, by its characters in the context."""

    text: str
    start_logit: float
    end_logit: float


class Answer(NamedTuple):
    """The best answers to a question, best first, and the logits of there being none, of the window where these are lowest."""

    candidates: list[Candidate]
    null: Candidate

    @property
    def text(self) -> str:
        """The best text that is an answer."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def null_odds(self) -> float:
        """Score of no answer minus that of the best one."""
        best = self.candidates[0] if self.candidates else Candidate("", OUT_OF_REACH, OUT_OF_REACH)
        return self.null.start_logit + self.null.end_logit - best.start_logit - best.end_logit


def answers_of_windows(kept: Mapping[str, Tensor], contexts: Sequence[str], n_best: int = N_BEST) -> list[Answer]:
    """An answer to each question from the best spans of all windows of its context; the same text counts once.

    A question of which no window was seen, in a part of a set, has no candidate.

    Args:
        kept: of W windows, ``question`` and the logits of the class token, ``null_start`` and ``null_end``, (W,); ``char_start``,
            ``char_end``, ``start_logit`` and ``end_logit`` of their best spans, (W, n).
        contexts: of all questions.
        n_best: answers a question.
    """
    columns = {name: values.double().cpu().numpy() for name, values in kept.items()}
    null = columns["null_start"] + columns["null_end"]
    spans = columns["char_start"].shape[1]
    question = columns["question"].astype(np.int64)
    of_span = np.repeat(question, spans)
    flat = {name: columns[name].reshape(-1) for name in ("char_start", "char_end", "start_logit", "end_logit")}
    score = flat["start_logit"] + flat["end_logit"]
    order = np.lexsort((flat["char_end"], flat["char_start"], -score, of_span))
    order = order[np.isfinite(score[order])]
    bounds = np.searchsorted(of_span[order], np.arange(len(contexts) + 1))
    window_of = {int(question[window]): window for window in np.lexsort((-null, question))}  # the last is the lowest
    answers = []
    for number, context in enumerate(contexts):
        found: dict[str, Candidate] = {}
        for place in order[bounds[number] : bounds[number + 1]]:
            text = context[int(flat["char_start"][place]) : int(flat["char_end"][place])]
            found.setdefault(text, Candidate(text, float(flat["start_logit"][place]), float(flat["end_logit"][place])))
            if len(found) == n_best:
                break
        window = window_of.get(number)
        null_logits = (0.0, 0.0) if window is None else (columns["null_start"][window], columns["null_end"][window])
        answers.append(Answer(list(found.values()), Candidate("", *map(float, null_logits))))
    return answers


def probabilities(candidates: Sequence[Candidate]) -> list[float]:
    """Softmax of the scores of some answers to a question."""
    scores = torch.tensor([each.start_logit + each.end_logit for each in candidates], dtype=torch.float64)
    return scores.softmax(0).tolist()
