"""Which runtime is fastest on this machine: torch dense and sparse, ONNX Runtime and OpenVINO, in turn on the same tokens."""

import copy
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cpu import matmul_library
from deployment.exchange import (
    FILES,
    Run,
    input_names,
    onnx_session,
    openvino_has_bf16,
    openvino_session,
    quantize_onnx,
    write_onnx,
    write_openvino,
)
from deployment.inference import interleaved_seconds, sparsify_linears_

if TYPE_CHECKING:  # seconds, which commands without a model need not wait
    from transformers import PreTrainedModel

PACKAGES = {"ONNX Runtime": ("onnxruntime", "onnxscript"), "OpenVINO": ("openvino", "onnxscript")}
TOLERANCE = 0.02  # of the largest output: what a runtime may be off by and still be the fastest; bf16 has 8 bits
DENSE, SPARSE = "torch dense", "torch sparse"


@dataclass(frozen=True)
class Timing:
    """One runtime with the number of threads that is best for it.

    Args:
        name: of the runtime and its precision.
        threads: of those that were tried.
        milliseconds: median.
        speedup: median over the rounds of the time of dense torch over its own, each with its neighbour.
        difference: largest difference from the outputs of dense torch, as a share of the largest of these.
    """

    name: str
    threads: int
    milliseconds: float
    speedup: float
    difference: float


@dataclass(frozen=True)
class LatencyComparison:
    """A model in all runtimes that are installed.

    Args:
        linear_layers: number of linear layers in the model.
        sparse_layers: number of those that became sparse in torch, with the most threads that were tried.
        library: what the dense products of torch are made by.
        timings: of every runtime, dense torch first.
    """

    linear_layers: int
    sparse_layers: int
    library: str
    timings: list[Timing]

    def fastest(self, tolerance: float = TOLERANCE) -> Timing:
        """The fastest of those whose outputs are within ``tolerance``, which is not negative, as dense torch is among them."""
        return min((each for each in self.timings if each.difference <= tolerance), key=lambda each: each.milliseconds)


def installed(runtime: str) -> bool:
    """Whether the packages of a runtime are there."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES[runtime])


def in_torch(model: "PreTrainedModel", threads: int) -> Run:
    """The model as a function that runs with so many threads."""

    def run(inputs: dict[str, Tensor]) -> Tensor:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return model(**inputs)[0]

    return run  # type: ignore[return-value]


def write_files(model: "PreTrainedModel", directory: Path, int8: bool) -> Iterator[tuple[str, Callable[[int], Run]]]:
    """Name of every other runtime and precision → a function from threads to the model in it; files are in ``directory``."""
    if not any(map(installed, PACKAGES)):
        return
    plain = directory / FILES["onnx"]
    write_onnx(model, plain)
    if installed("ONNX Runtime"):
        yield "ONNX Runtime", lambda threads: onnx_session(plain, threads)
        if int8:
            quantized = directory / "int8.onnx"
            quantize_onnx(plain, quantized)
            yield "ONNX Runtime int8", lambda threads: onnx_session(quantized, threads)
    if installed("OpenVINO"):
        yield "OpenVINO", lambda threads: openvino_session(plain, threads)
        if openvino_has_bf16():
            yield "OpenVINO bf16", lambda threads: openvino_session(plain, threads, "bf16")
        if int8 and importlib.util.find_spec("nncf"):
            small = directory / "int8.xml"
            write_openvino(plain, small, int8=True)
            yield "OpenVINO int8", lambda threads: openvino_session(small, threads)


@torch.inference_mode()
def compare_latency(
    dense: "PreTrainedModel", batch: int, length: int, rounds: int, threads: Sequence[int], int8: bool = False
) -> LatencyComparison:
    """Time a model in every runtime that is installed, all in turn, each with every number of threads.

    Args:
        dense: any model of token ids with exact zeros, fp32 on the CPU. It is not changed.
        batch: sequences.
        length: tokens a sequence; they are drawn at random.
        rounds: how often each is timed.
        threads: numbers of threads to try; of each runtime the fastest counts.
        int8: whether to time files with 8-bit weights, too.
    """
    tokens = torch.randint(dense.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    every = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": torch.zeros_like(tokens)}
    inputs = {name: every[name] for name in input_names(dense)}
    runs: dict[tuple[str, int], Run] = {}
    kept, choices = torch.get_num_threads(), {}
    with tempfile.TemporaryDirectory() as directory:
        files = dict(write_files(dense, Path(directory), int8))
        bf16 = copy.deepcopy(dense).bfloat16()
        for number in sorted(threads):
            torch.set_num_threads(number)
            sparse = copy.deepcopy(dense)
            choices = sparsify_linears_(sparse, tokens=batch * length)
            for name, model in ((DENSE, dense), (SPARSE, sparse), ("torch bf16", bf16)):
                runs[name, number] = in_torch(model, number)
            runs |= {(name, number): start(number) for name, start in files.items()}
        expected = runs[DENSE, max(threads)](inputs)
        largest = float(expected.abs().max())
        off = {key: float((run(inputs).float() - expected).abs().max()) / largest for key, run in runs.items()}
        calls = {f"{name} {number}": (lambda run=run: run(inputs)) for (name, number), run in runs.items()}
        seconds = dict(zip(runs, interleaved_seconds(calls, rounds).values(), strict=True))
    torch.set_num_threads(kept)
    best = {name: min(threads, key=lambda number: statistics.median(seconds[name, number])) for name, _ in runs}
    base = seconds[DENSE, best[DENSE]]
    timings = [
        Timing(
            name=name,
            threads=number,
            milliseconds=statistics.median(seconds[name, number]) * 1e3,
            speedup=statistics.median(one / other for one, other in zip(base, seconds[name, number], strict=True)),
            difference=off[name, number],
        )
        for name, number in best.items()
    ]
    return LatencyComparison(
        linear_layers=len(choices),
        sparse_layers=sum(choice.is_sparse for choice in choices.values()),
        library=matmul_library(),
        timings=timings,
    )
