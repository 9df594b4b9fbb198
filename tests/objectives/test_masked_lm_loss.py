"""The loss at masked positions is Hugging Face's loss over all positions, in every family; the unigram loss by hand."""

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from objectives.masked_lm import (
    _HEADS,
    IGNORE_INDEX,
    check_family,
    label_count,
    masked_lm_logits,
    masked_lm_loss,
    unigram_log_probabilities,
    unigram_loss,
)

VOCABULARY, LENGTH, BATCH, MASKED = 60, 12, 4, 3
USUAL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    fields = DISTILBERT if family == "distilbert" else USUAL
    special = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, max_position_embeddings=32, **fields, **special)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():  # biases and norms away from 0 and 1, so that a head that forgets one is found out
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_batch(padded: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """``input_ids``, ``positions``, ``labels`` at them, and an attention mask if the last four positions are padding."""
    torch.manual_seed(1)
    input_ids = torch.randint(4, VOCABULARY, (BATCH, LENGTH))
    attention_mask = None
    if padded:
        attention_mask = (torch.arange(LENGTH) < LENGTH - 4).long().expand(BATCH, -1)
        input_ids = input_ids.masked_fill(attention_mask == 0, 1)
    positions = torch.stack([torch.randperm(LENGTH - 4)[:MASKED].sort().values for _ in range(BATCH)])
    labels = torch.randint(4, VOCABULARY, (BATCH, MASKED))
    labels[0, 1] = IGNORE_INDEX
    return input_ids, positions, labels, attention_mask


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", _HEADS)
def test_loss_and_every_gradient_are_those_of_all_positions(family: str, padded: bool) -> None:
    ours = tiny(family)
    theirs = copy.deepcopy(ours)
    input_ids, positions, labels, attention_mask = random_batch(padded)

    logits = masked_lm_logits(ours, input_ids, positions, attention_mask)
    loss = masked_lm_loss(logits, labels)
    loss.backward()
    everywhere = torch.full_like(input_ids, IGNORE_INDEX).scatter(1, positions, labels)
    full = theirs(input_ids=input_ids, attention_mask=attention_mask, labels=everywhere)
    full.loss.backward()

    at_positions = full.logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, VOCABULARY)).flatten(0, 1)
    torch.testing.assert_close(logits, at_positions, atol=1e-5, rtol=0)
    assert loss.item() == pytest.approx(full.loss.item(), abs=1e-5)
    assert {name for name, parameter in ours.named_parameters() if parameter.grad is not None} == {
        name for name, parameter in theirs.named_parameters() if parameter.grad is not None
    }
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=0, msg=name)


def test_an_unknown_family_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"model type 'albert' has no entry .* there are bert, .*modernbert"):
        check_family("albert")
    check_family("modernbert")


def test_sum_is_mean_times_the_labels_that_count() -> None:
    logits, labels = torch.randn(6, 9), torch.tensor([[1, IGNORE_INDEX], [8, 0], [IGNORE_INDEX, 3]])
    assert label_count(labels) == 4
    assert masked_lm_loss(logits, labels, "sum").item() == pytest.approx(4 * masked_lm_loss(logits, labels).item())


def test_loss_of_half_precision_logits_is_taken_in_single_precision() -> None:
    logits, labels = 20 * torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(5)
    assert masked_lm_loss(logits, labels).item() == pytest.approx(masked_lm_loss(logits.double(), labels).item(), rel=1e-6)


def test_unigram_loss_worked_by_hand() -> None:
    log_probabilities = unigram_log_probabilities(torch.tensor([0, 2, 5]))  # with one added to each: 1, 3, 6 of 10
    assert log_probabilities.exp().tolist() == pytest.approx([0.1, 0.3, 0.6])
    labels = torch.tensor([[2, IGNORE_INDEX], [0, 2]])
    expected = -2 * math.log(0.6) - math.log(0.1)
    assert unigram_loss(log_probabilities, labels).item() == pytest.approx(expected, abs=1e-12)


def test_unigram_loss_is_the_entropy_on_its_own_distribution() -> None:
    counts = torch.tensor([3, 1, 7, 9])
    labels = torch.repeat_interleave(torch.arange(4), counts + 1)
    p = (counts + 1) / (counts + 1).sum()
    mean = unigram_loss(unigram_log_probabilities(counts), labels).item() / len(labels)
    assert mean == pytest.approx(-(p * p.log()).sum().item(), abs=1e-6)


def test_a_batch_without_a_label_weighs_nothing() -> None:
    logits = torch.randn(3, VOCABULARY, requires_grad=True)
    loss = masked_lm_loss(logits, torch.full((3,), IGNORE_INDEX))
    loss.backward()
    assert (loss.item(), logits.grad.abs().max().item()) == (0.0, 0.0)
