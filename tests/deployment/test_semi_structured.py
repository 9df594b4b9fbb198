"""Which layers can take the 2:4 form of sparse tensor cores, and that it loses nothing; its products need a GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from transformers import PreTrainedModel

from callbacks import ExportPretrained, RigL
from datamodules import TextDataModule
from deployment import load_model, semi_structured_layers, to_semi_structured_
from deployment.semi_structured import is_two_of_four
from helpers import CONFIG, fit, tiny_bert


def two_of_four(linear: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        linear.weight.view(-1, 4)[:, 1::2] = 0
    return linear


def test_layers_fit_by_their_zeros_and_their_shape() -> None:
    model = nn.Sequential(two_of_four(nn.Linear(64, 32)), nn.Linear(64, 32), two_of_four(nn.Linear(64, 31)))
    found = semi_structured_layers(model)
    assert found.fit == ["0"]
    assert found.reasons == {
        "1": "more than two of four weights are not zero",
        "2": "31 × 64 is no multiple of 32 × 64",
    }
    assert not is_two_of_four(torch.zeros(4, 6))


def test_the_shapes_are_those_of_the_kernel() -> None:
    for dtype, (rows, columns) in {torch.float16: (32, 64), torch.bfloat16: (32, 64)}.items():
        limits = SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS[dtype]
        assert (limits.sparse_min_rows, limits.sparse_min_cols) == (rows, columns)


def test_the_form_is_for_gpus_and_a_cpu_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"a model of torch\.float32 on cpu; 2:4 takes float16 or bfloat16 on a CUDA device"
    ):
        to_semi_structured_(nn.Sequential(two_of_four(nn.Linear(64, 32))))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_data: Callable[..., TextDataModule]) -> PreTrainedModel:
    """Loaded from the export of a run whose masks are 2:4 and have moved, in float16."""
    root = tmp_path_factory.mktemp("two_of_four")
    callbacks = [RigL(sparsity=0.5, structure="2:4", every=1, stop=1.0), ExportPretrained()]
    fit(root, text_data(), callbacks, 3, tiny_bert(config=CONFIG | {"hidden_size": 64, "intermediate_size": 128}))
    return load_model(root / "export").half()


def test_what_is_trained_with_2_of_4_takes_the_form(trained: PreTrainedModel) -> None:
    linears = {name for name, module in trained.named_modules() if type(module) is nn.Linear}
    found = semi_structured_layers(trained)
    assert set(found.fit) == {name for name in linears if "encoder" in name}
    assert len(found.fit) == 12  # of two layers
    assert found.reasons.keys() == linears - set(found.fit)


def test_the_form_is_half_as_many_values_and_gives_every_weight_back(trained: PreTrainedModel) -> None:
    """By torch's own reference of what CUTLASS's kernel reads, which runs anywhere."""
    for name in semi_structured_layers(trained).fit:
        weight = trained.get_submodule(name).weight.detach()
        values, places = sparse_semi_structured_from_dense_cutlass(weight)
        assert values.shape == (weight.shape[0], weight.shape[1] // 2)
        assert places.numel() * places.element_size() * 8 == weight.numel()  # a bit a weight
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, places), weight), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the products are kernels of GPUs")
def test_a_gpu_computes_the_same_in_the_form(trained: PreTrainedModel) -> None:
    pytest.importorskip("torchao")
    model = trained.cuda()
    tokens = torch.randint(5, model.config.vocab_size, (8, 16), device="cuda")
    with torch.inference_mode():
        expected = model(tokens).logits
        assert len(to_semi_structured_(model).fit) == 12
        torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-2)
