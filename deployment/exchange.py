"""Models where torch is not: ONNX and OpenVINO files, checked against the model that they were made from.

torch.onnx writes the ONNX file; OpenVINO converts that, because its own tracer of torch gives NaN for the masked rows of local
attention. Both keep every zero, but neither runtime skips them: what a sparse model gains there is the size of its packed file.
The packages are extras: ``pip install 'trifecta[onnx]'`` and ``'trifecta[openvino]'``.
"""

import contextlib
import functools
import importlib
import inspect
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Format = Literal["onnx", "openvino"]
Run = Callable[[Mapping[str, Tensor]], Tensor]
FILES: dict[str, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4  # largest difference of an output, in its own unit


def extra(module: str, name: Format) -> ModuleType:
    """A package that not everybody has.

    Raises:
        ValueError: it is not installed; one line that says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is not installed: pip install 'trifecta[{name}]'") from error


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's runtime, one for the life of the process.

    Its CPU plugin puts an alternate signal stack in place of the thread's, and the one before back when it goes. Of two that go
    in the order in which they came, the second puts back memory that the first has freed, and the next signal ends the process.
    """
    return extra("openvino", "openvino").Core()


def openvino_has_bf16() -> bool:
    """Whether OpenVINO has products in bf16 for this processor; without them it imitates them, fifty times slower."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def input_names(model: nn.Module) -> list[str]:
    """The tensors of a tokenizer that the model takes."""
    accepted = inspect.signature(model.forward).parameters
    return [name for name in INPUTS if name in accepted]


class _FirstOutput(nn.Module):
    """The model as a function of tensors in the order of :data:`INPUTS` that gives one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        further = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **further)[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters speak of what they skip and fold, on every channel there is."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def write_onnx(model: "PreTrainedModel", file: Path) -> None:
    """Write an ONNX file of any batch size and length; inputs are named as the tokenizer names them, the output ``output``.

    Args:
        model: fp32 on the CPU, dense, in evaluation mode.
        file: to write, the weights inside it (up to the 2 GB that the format allows).

    Raises:
        ValueError: a model of choices, which takes several sequences at a time.
    """
    kind = type(model).__name__
    if kind.endswith("ForMultipleChoice"):
        raise ValueError(f"{kind} is not written for other runtimes: it takes several sequences at a time")
    extra("onnxscript", "onnx")
    names = input_names(model)
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    if "token_type_ids" in names:
        example = (*example[:-1], torch.zeros(2, 8, dtype=torch.long))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _FirstOutput(model).eval(),
            example,
            dynamo=True,
            dynamic_shapes=tuple(free for _ in names),
            input_names=names,
            output_names=["output"],
            verbose=False,
        )
        assert program is not None
        program.save(file, external_data=False)


def write_openvino(onnx_file: Path, file: Path, int8: bool = False) -> None:
    """Convert an ONNX file to OpenVINO's pair of ``.xml`` and ``.bin``; the weights stay fp32, or become 8-bit integers."""
    openvino = extra("openvino", "openvino")
    converted = openvino.convert_model(onnx_file)
    if int8:
        nncf = extra("nncf", "openvino")
        with _quiet():
            converted = nncf.compress_weights(converted, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(converted, file, compress_to_fp16=False)


def quantize_onnx(fp32: Path, file: Path) -> None:
    """Weights as signed 8-bit integers, an equal scale up and down so that 0.0 stays 0; activations at run time."""
    quantization = extra("onnxruntime.quantization", "onnx")
    with _quiet():
        quantization.quantize_dynamic(fp32, file, weight_type=quantization.QuantType.QInt8)


def export(model: "PreTrainedModel", directory: Path, format: Format, int8: bool = False) -> Path:
    """Write the model in a format of another runtime into ``directory``, which is made.

    Returns:
        The file that the runtime loads.

    Raises:
        ValueError: a model of spans, whose answer is two tensors, or of choices.
    """
    kind = type(model).__name__
    if kind.endswith("ForQuestionAnswering"):
        raise ValueError(f"{kind} is not written for other runtimes: its answer is two tensors, and files have one")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FILES[format]
    with tempfile.TemporaryDirectory() as scratch:
        onnx_file = file if format == "onnx" and not int8 else Path(scratch, FILES["onnx"])
        write_onnx(model, onnx_file)
        if format == "openvino":
            write_openvino(onnx_file, file, int8)
        elif int8:
            quantize_onnx(onnx_file, file)
    return file


def onnx_session(file: Path, threads: int) -> Run:
    """A function from the tokenizer's tensors to the output, in ONNX Runtime on the CPU."""
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in names})[0])


def openvino_session(file: Path, threads: int, precision: Literal["f32", "bf16"] = "f32") -> Run:
    """A function from the tokenizer's tensors to the output, in OpenVINO on the CPU, which by itself would take bf16."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino_core().compile_model(file, "CPU", settings)
    names = [each.get_any_name() for each in compiled.inputs]
    return lambda inputs: torch.from_numpy(np.array(compiled({name: inputs[name].numpy() for name in names})[0]))


def session(file: Path, format: Format, threads: int) -> Run:
    """The runtime of a format with a file loaded."""
    return onnx_session(file, threads) if format == "onnx" else openvino_session(file, threads)


def constants(file: Path, format: Format) -> list[np.ndarray]:
    """The matrices that a file holds."""
    arrays: list[Any]
    if format == "onnx":
        onnx = extra("onnx", "onnx")
        arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer]
    else:
        operations = openvino_core().read_model(file).get_ops()
        arrays = [each.get_data() for each in operations if each.get_type_name() == "Constant"]
    return [array for array in arrays if array.ndim == 2]


def kept_zeros(model: nn.Module, matrices: Sequence[np.ndarray]) -> int:
    """Zeros in the matrices of ``model``, after making sure that they are all zero in a file.

    Exporters transpose and rename; so each matrix is looked for by its size and its count of weights that are not zero.

    Raises:
        ValueError: the file lacks a matrix of the model with all of its zeros.
    """
    in_file = Counter((array.size, int(np.count_nonzero(array))) for array in matrices)
    zeros = 0
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        entry = weight.numel(), int(weight.count_nonzero())
        if entry[0] != entry[1]:
            if not in_file[entry]:
                raise ValueError(f"{name}: its {entry[0] - entry[1]:,} zeros are not in the file as they are in the model")
            in_file[entry] -= 1
        zeros += entry[0] - entry[1]
    return zeros


@dataclass(frozen=True)
class Agreement:
    """How the outputs of a file compare with torch's, padding aside.

    Args:
        sentences: that were compared.
        difference: largest absolute difference of an output.
        same: share of the positions, or of the sentences, where the largest output is the same one.
    """

    sentences: int
    difference: float
    same: float


@torch.inference_mode()
def agreement(
    model: "PreTrainedModel", run: Run, tokenizer: "PreTrainedTokenizerBase", sentences: Sequence[str], batch: int = 8
) -> Agreement:
    """Run sentences through both, padded to the longest of each batch and cut at 128 tokens or what the model takes."""
    length = min(128, getattr(model.config, "max_position_embeddings", 128) - 2)
    difference, same, total = 0.0, 0, 0
    for start in range(0, len(sentences), batch):
        texts = list(sentences[start : start + batch])
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        zeros = torch.zeros_like(inputs["input_ids"])
        tensors = {name: inputs.get(name, zeros) for name in input_names(model)}
        expected, found = model(**tensors)[0], run(tensors)
        if expected.ndim == 3:  # of every token; what stands at padding is nobody's
            real = tensors["attention_mask"].bool()
            expected, found = expected[real], found[real]
        difference = max(difference, float((expected - found).abs().nan_to_num(nan=torch.inf).max()))
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        total += len(expected)
    return Agreement(len(sentences), difference, same / total)
