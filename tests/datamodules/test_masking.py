"""Masking: a pure function of (seed, epoch, index) with the shares of BERT."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.masking import IntArray, Masking, Vocabulary, mask_tokens, uniforms
from objectives.masked_lm import IGNORE_INDEX

SIZE, SPECIAL, MASK, FIRST_CONTINUATION = 100, 5, 4, 60
CLS, SEP = 2, 3
VOCABULARY = Vocabulary(SIZE, MASK, np.arange(SIZE) < SPECIAL, np.arange(SIZE) >= FIRST_CONTINUATION)
Masked = tuple[IntArray, IntArray, IntArray]


def sequences(count: int, length: int, seed: int = 0) -> IntArray:
    """Random tokens between a class and a separator token, with a separator inside here and there."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(SPECIAL, SIZE, (count, length))
    tokens[draw.random(tokens.shape) < 0.03] = SEP
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    return tokens


def masked(tokens: IntArray, masking: Masking = Masking(), seed: int = 0, epoch: int = 0) -> Masked:
    indices = np.arange(len(tokens))
    return mask_tokens(tokens, masking, VOCABULARY, seed, np.full_like(indices, epoch), indices)


@given(st.permutations(range(12)), st.integers(0, 11), st.booleans())
@settings(deadline=None, max_examples=25)
def test_an_example_is_the_same_in_any_batch(order: list[int], cut: int, whole_words: bool) -> None:
    tokens, masking = sequences(12, 30), Masking(whole_words=whole_words)
    epochs, indices = np.arange(12) % 3, np.arange(12) + 1000
    together = mask_tokens(tokens, masking, VOCABULARY, 7, epochs, indices)
    for part in (order[:cut], order[cut:]):
        apart = mask_tokens(tokens[part], masking, VOCABULARY, 7, epochs[part], indices[part])
        assert all(np.array_equal(one, other[part]) for one, other in zip(apart, together, strict=True))


@pytest.mark.parametrize("width", [1, 3, 164])
def test_a_row_of_numbers_is_what_a_generator_of_its_own_would_draw(width: int) -> None:
    epochs, indices = np.array([0, 3, 2**31]), np.array([9, 0, 2**62])
    for row, epoch, index in zip(uniforms(7, epochs, indices, width), epochs, indices, strict=True):
        philox = np.random.Philox(key=[7, 0], counter=[0, 0, epoch, index])
        assert np.array_equal(row, np.random.Generator(philox).random(width))


def test_seed_epoch_and_index_all_change_the_masks() -> None:
    tokens = np.tile(sequences(1, 128), (2, 1))
    _, (first, second), _ = masked(tokens)
    others = (second, masked(tokens, seed=1)[1][0], masked(tokens, epoch=1)[1][0])
    assert len({tuple(positions) for positions in (first, *others)}) == 4


@pytest.mark.parametrize(
    ("rate", "length", "count"), [(0.15, 128, 19), (0.15, 512, 77), (0.4, 64, 26), (0.15, 8, 1), (0.01, 8, 1)]
)
@pytest.mark.parametrize("whole_words", [False, True])
def test_every_sequence_has_the_same_count_of_distinct_ascending_positions(
    rate: float, length: int, count: int, whole_words: bool
) -> None:
    _, positions, labels = masked(sequences(50, length), Masking(rate, whole_words=whole_words))
    assert positions.shape == labels.shape == (50, count)
    assert (np.diff(positions, axis=1) > 0).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_labels_are_the_tokens_at_the_positions_and_nothing_else_changes(whole_words: bool) -> None:
    tokens = sequences(200, 64)
    input_ids, positions, labels = masked(tokens, Masking(whole_words=whole_words))
    assert np.array_equal(labels, np.take_along_axis(tokens, positions, axis=1))
    restored = input_ids.copy()
    np.put_along_axis(restored, positions, labels, axis=1)
    assert np.array_equal(restored, tokens)


@pytest.mark.parametrize("whole_words", [False, True])
def test_special_tokens_are_never_masked_and_never_drawn(whole_words: bool) -> None:
    tokens = sequences(500, 64)
    input_ids, _, labels = masked(tokens, Masking(rate=0.5, mask_share=0.2, random_share=0.7, whole_words=whole_words))
    special = tokens < SPECIAL
    assert labels.min() >= SPECIAL
    assert np.array_equal(input_ids[special], tokens[special])
    assert set(np.unique(input_ids[~special])) == {MASK, *range(SPECIAL, SIZE)}


def test_a_sequence_with_too_few_ordinary_tokens_has_labels_that_do_not_count() -> None:
    tokens = np.full((1, 20), SEP)
    tokens[0, [4, 9]] = 50, 70
    input_ids, _, labels = masked(tokens, Masking(rate=0.25, mask_share=1.0, random_share=0.0))
    assert sorted(labels[0]) == [IGNORE_INDEX] * 3 + [50, 70]
    assert np.array_equal(np.flatnonzero(input_ids[0] != tokens[0]), [4, 9])


def within(share: float, expected: float, trials: int) -> bool:
    """Whether a binomial share lies within four standard deviations."""
    return abs(share - expected) < 4 * (expected * (1 - expected) / trials) ** 0.5


def test_shares_are_80_10_10() -> None:
    tokens = sequences(2000, 128)
    input_ids, positions, labels = masked(tokens)
    shown = np.take_along_axis(input_ids, positions, axis=1)
    trials, ordinary = labels.size, SIZE - SPECIAL
    assert within((shown == MASK).mean(), 0.8, trials)
    assert within((shown == labels).mean(), 0.1 + 0.1 / ordinary, trials)  # a random token may be the right one
    drawn = shown[(shown != MASK) & (shown != labels)]
    assert within(len(drawn) / trials, 0.1 - 0.1 / ordinary, trials)
    assert all(within((drawn == token).mean(), 1 / ordinary, len(drawn)) for token in range(SPECIAL, SIZE))


def test_every_ordinary_position_is_equally_likely() -> None:
    tokens = np.full((4000, 42), 50)
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    counts = np.bincount(masked(tokens)[1].ravel(), minlength=42)
    assert counts[0] == counts[-1] == 0
    assert all(within(count / 4000, 6 / 40, 4000) for count in counts[1:-1])


def words_of(sequence: IntArray) -> list[list[int]]:
    """Positions of each word: a token and the continuations after it; specials are no words and end one."""
    words: list[list[int]] = []
    for position, token in enumerate(sequence):
        if token < SPECIAL:
            words.append([])
        elif token >= FIRST_CONTINUATION and words:
            words[-1].append(position)
        else:
            words.append([position])
    return [word for word in words if word]


def test_whole_words_are_masked_but_for_at_most_one_that_is_cut() -> None:
    tokens = sequences(300, 64)
    _, positions, _ = masked(tokens, Masking(whole_words=True))
    cuts = []
    for sequence, chosen in zip(tokens, map(set, positions.tolist()), strict=True):
        words = words_of(sequence)
        cut = [word for word in words if 0 < len(chosen & set(word)) < len(word)]
        assert len(cut) <= 1
        assert all(word[: len(chosen & set(word))] == sorted(chosen & set(word)) for word in cut)  # its head is masked
        cuts.append(len(cut))
    assert 0 < sum(cuts) < len(cuts)


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": 1.1}, {"mask_share": -0.1}, {"mask_share": 0.8, "random_share": 0.3}]
)
def test_impossible_shares_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="masking rate in"):
        Masking(**options)
