"""Dynamic masking as a pure function: what is masked depends on (seed, epoch, example index) and on nothing else.

The random numbers come from Philox, a counter-based generator (Salmon et al. 2011) keyed by the seed, with epoch and index
as its counter. Batches are therefore the same for any number of workers or ranks, and after a resume.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.masked_lm import IGNORE_INDEX

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a tokenizer.

    Args:
        size: number of token ids.
        mask_id: id of the mask token.
        special: (size,) boolean, tokens that are never masked and never drawn as a random replacement.
        continues_word: (size,) boolean, tokens that continue the word of the token before.
    """

    size: int
    mask_id: int
    special: NDArray[np.bool_]
    continues_word: NDArray[np.bool_]


@dataclass(frozen=True)
class Masking:
    """How examples are masked (Devlin et al. 2019, section 3.1).

    Args:
        rate: share of the positions of a sequence that is predicted; the count is the same in every sequence.
        mask_share: share of those that become the mask token.
        random_share: share of those that become a random token; the rest stays as it is.
        whole_words: choose words instead of tokens; the last word chosen may be cut so that the count stays fixed.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"masking rate in (0, 1] and shares that add up to at most 1 expected, got rate {self.rate}, "
                f"mask_share {self.mask_share}, random_share {self.random_share}"
            )

    def count(self, length: int) -> int:
        """Masked positions in a sequence of ``length`` tokens."""
        return max(1, round(self.rate * length))


def uniforms(seed: int, epochs: IntArray, indices: IntArray, width: int) -> NDArray[np.float64]:
    """(examples, width) numbers in [0, 1), row i a function of (seed, epochs[i], indices[i])."""
    rows = np.empty((len(indices), width))
    philox = np.random.Philox(key=[seed, 0])
    generator, fresh = np.random.Generator(philox), philox.state
    for row, epoch, index in zip(rows, epochs, indices, strict=True):
        fresh["state"]["counter"][2:] = epoch, index
        philox.state = fresh  # a new generator would cost more than its numbers
        generator.random(out=row)
    return rows


def mask_tokens(
    tokens: IntArray, masking: Masking, vocabulary: Vocabulary, seed: int, epochs: IntArray, indices: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Choose positions, replace 80/10/10, and return what is to be predicted there.

    Args:
        tokens: (examples, length) token ids, special tokens included.
        epochs: (examples,) epoch of each example.
        indices: (examples,) index of each example.

    Returns:
        ``input_ids`` (examples, length), ``positions`` and ``labels`` (examples, masked), positions ascending. An example
        with fewer maskable tokens than ``masked`` has labels of ``IGNORE_INDEX`` for the difference.
    """
    length, count = tokens.shape[1], masking.count(tokens.shape[1])
    random = uniforms(seed, epochs, indices, length + 2 * count)
    order, action, replacement = np.split(random, [length, length + count], axis=1)

    if masking.whole_words:
        word = np.cumsum(~vocabulary.continues_word[tokens], axis=1, dtype=np.int64)
        word -= word[:, :1]
        order = np.take_along_axis(order, word, axis=1)
    maskable = ~vocabulary.special[tokens]
    order = np.where(maskable, order, 2.0 + np.arange(length))  # last, and no two alike
    first = np.argsort(order, axis=1, kind="stable" if masking.whole_words else "quicksort")  # tokens of a word are alike
    positions = np.sort(first[:, :count], axis=1)

    original = np.take_along_axis(tokens, positions, axis=1)
    chosen = np.take_along_axis(maskable, positions, axis=1)
    ordinary = np.flatnonzero(~vocabulary.special)
    drawn = ordinary[(replacement * len(ordinary)).astype(np.int64)]
    replaced = np.where(action < masking.mask_share, vocabulary.mask_id, original)
    randomised = (action >= masking.mask_share) & (action < masking.mask_share + masking.random_share)
    replaced = np.where(randomised, drawn, replaced)

    input_ids = tokens.copy()
    np.put_along_axis(input_ids, positions, np.where(chosen, replaced, original), axis=1)
    return input_ids, positions, np.where(chosen, original, IGNORE_INDEX)
