"""Which layers can take the 2:4 form of sparse tensor cores, as far as that can be known on a CPU."""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS

from deployment import semi_structured_layers, to_semi_structured_
from deployment.semi_structured import is_two_of_four


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
