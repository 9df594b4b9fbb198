"""Sparse inference on a CPU: linear layers that are mostly zero run as compressed sparse rows, where that is faster *here*.

Whether a sparse product beats a dense one depends on the processor, the shape, the density, how the non-zeros lie and the
number of tokens. So layers are timed as they are, when the model is loaded, and what is not clearly faster stays the very
``nn.Linear`` it was.
"""

import contextlib
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

# MKL's product of a sparse and a dense matrix is fast where the dense one is row-major: activations with a feature a row, not
# a token. To transpose them on the way in and out takes nearly as long as the product at 95 %. So the first layer of a
# feed-forward block leaves its output as it is; the activation function keeps that layout, and the second layer takes it so.
WIDENS = (3, 8)  # out_features over in_features of a first layer: more than a joint projection of attention, no vocabulary
MAX_DENSITY = 0.5  # from here on the rows with their column indices are no fewer bytes than the dense matrix
MIN_SPEEDUP = 1.1  # what a sparse layer must win for certain, so that noise never makes a model slower
BUSY = 1.2  # all threads over a single one, in time: more than this says that other processes hold the cores


def compressed_rows(weight: Tensor) -> Tensor:
    """A matrix in CSR layout with 32-bit indices: MKL's own, where torch's 64-bit ones would be converted at every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*[Ss]parse.* beta state.*")
        rows = weight.detach().to_sparse_csr()
    indices = rows.crow_indices().int(), rows.col_indices().int()
    return torch.sparse_csr_tensor(*indices, rows.values(), size=rows.shape, check_invariants=True)


def widens(features: int, more: int) -> bool:
    """Whether a layer from so many features to ``more`` is the first of a feed-forward block."""
    return WIDENS[0] * features < more <= WIDENS[1] * features


class SparseLinear(nn.Module):
    """``y = x Wᵀ + b`` with the non-zeros of ``W`` alone; takes and returns what the dense layer does. For inference only.

    Args:
        linear: the dense layer (in_features → out_features), float32 or float64 on the CPU. It is not changed.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.register_buffer("weight", compressed_rows(linear.weight), persistent=False)
        self.register_buffer("bias", bias.unsqueeze(1), persistent=False)
        self.has_bias = linear.bias is not None
        self.widens = widens(linear.in_features, linear.out_features)
        self.register_state_dict_post_hook(save_as_dense)

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features); where it widens as :data:`WIDENS` says, with tokens side by side in memory."""
        features = input.detach().reshape(-1, self.in_features).T.contiguous()
        tokens = torch.addmm(self.bias, self.weight, features).T
        if not self.widens:
            tokens = tokens.contiguous()
        return tokens.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        nnz = self.weight.values().numel()
        density = nnz / (self.in_features * self.out_features)
        return f"in_features={self.in_features}, out_features={self.out_features}, nnz={nnz}, density={density:.4f}"


def save_as_dense(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Give a state dict what the dense layer had there: ``save_pretrained`` writes an ordinary model."""
    assert isinstance(module, SparseLinear)
    state[f"{prefix}weight"] = module.weight.to_dense()
    if module.has_bias:
        state[f"{prefix}bias"] = module.bias.squeeze(1)


def interleaved_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each call in each of ``rounds`` rounds, all calls in turn, after two rounds that warm up.

    Whatever else the machine does, neighbouring calls suffer alike: compare them round by round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2 + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: times[2:] for name, times in seconds.items()}


@dataclass(frozen=True)
class LayerChoice:
    """What became of a linear layer.

    Args:
        density: share of its weights that are not zero.
        speedup: time of the dense layer over that of the sparse one, measured over all layers of its shape and density;
            None where sparse was out of the question.
        is_sparse: whether a :class:`SparseLinear` took its place.
    """

    density: float
    speedup: float | None
    is_sparse: bool


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch with a single thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measured_speedup(
    pairs: Sequence[tuple[nn.Linear, SparseLinear]], tokens: int, transposed: bool = False, rounds: int = 50
) -> float:
    """Best dense over best sparse time of ``tokens`` tokens through layers of one shape, with the threads torch has now.

    The sparse ones get their tokens ``transposed`` where they come from the sparse first layer of a feed-forward block.

    The best of many rounds is the time of an undisturbed machine. On a busy one threads wait for each other in every round;
    where that makes them slower than a single thread, the times of a single thread count. Each round takes the next layer, so
    that weights come from the memory, as they do in a model. Dense layers are timed with the matrix products that this process
    has (``cpu.multiply_with_onednn``), as they will run.
    """
    weight = pairs[0][0].weight
    activations = torch.randn(tokens, weight.shape[1], dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    received = activations.T.contiguous().T if transposed else activations
    dense, sparse = (cycle(layers) for layers in zip(*pairs, strict=True))
    calls = {"dense": lambda: next(dense)(activations), "sparse": lambda: next(sparse)(received)}
    seconds = interleaved_seconds(calls, max(rounds, len(pairs)))
    if torch.get_num_threads() > 1:
        with one_thread():
            alone = interleaved_seconds(calls, max(rounds, len(pairs)))
        if statistics.median(seconds["dense"]) > BUSY * statistics.median(alone["dense"]):
            seconds = alone
    return min(seconds["dense"]) / min(seconds["sparse"])


def density_of(linear: nn.Linear) -> float:
    """Share of the weights that are not zero; of no weights, 1.0."""
    return int(linear.weight.count_nonzero()) / linear.weight.numel() if linear.weight.numel() else 1.0


def can_be_sparse(linear: nn.Linear) -> bool:
    """Whether torch has a sparse product for the layer that could be worth its while."""
    computable = linear.weight.device.type == "cpu" and linear.weight.dtype in (torch.float32, torch.float64)
    return computable and torch.backends.mkl.is_available() and density_of(linear) < MAX_DENSITY


@torch.no_grad()
def sparsify_linears_(model: nn.Module, tokens: int = 128) -> dict[str, LayerChoice]:
    """Replace the linear layers of ``model`` that run faster as sparse ones; everything else is left as it is.

    The outputs stay equal up to the rounding of sums in another order. The model is for inference from now on, with the
    precision and on the device that it has: it can be neither copied nor run under autocast. ``save_pretrained`` writes it as the
    dense model that it was, without -0.0.

    Args:
        model: any module, float32 on the CPU, with exact zeros. Only layers that are ``nn.Linear`` itself are considered:
            a subclass may do something else with its weight.
        tokens: batch size times sequence length that the model will run with, for which the layers are timed. Whatever else
            decides on speed (threads, ``cpu.multiply_with_onednn``) is to be as it will be then.

    Returns:
        Name of every linear layer → what became of it.

    Raises:
        ValueError: ``tokens`` is not positive.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; expected the batch size times the length of a sequence, at least 1")
    modules = model.named_modules(remove_duplicate=False)
    linears = {name: module for name, module in modules if name and type(module) is nn.Linear}
    choices = {linear: LayerChoice(density_of(linear), None, False) for linear in linears.values()}
    groups = defaultdict(list)  # of one shape, and of one density to 5 %
    for linear in filter(can_be_sparse, choices):
        groups[linear.weight.shape, linear.weight.dtype, round(20 * choices[linear].density)].append(linear)
    replacements: dict[nn.Linear, SparseLinear] = {}
    begin_sparse: set[tuple[int, int]] = set()  # shapes of the first layers of feed-forward blocks
    for group in sorted(groups.values(), key=lambda group: not widens(group[0].in_features, group[0].out_features)):
        pairs = [(linear, SparseLinear(linear)) for linear in group]
        shape = group[0].in_features, group[0].out_features
        gain = measured_speedup(pairs, tokens, transposed=shape[::-1] in begin_sparse)
        choices |= {linear: LayerChoice(choices[linear].density, gain, gain >= MIN_SPEEDUP) for linear in group}
        if gain >= MIN_SPEEDUP:
            replacements |= dict(pairs)
            begin_sparse |= {shape} if widens(*shape) else set()
    for name, linear in linears.items():
        if linear in replacements:
            model.set_submodule(name, replacements[linear])
    return {name: choices[linear] for name, linear in linears.items()}
