"""Inference of BERT-base in every runtime that is installed, interleaved: ``python benchmarks/sparse_latency.py``.

Random masks over all matrices of the encoder at each sparsity, unstructured and in blocks of 1×4, for one sequence and for
a batch. A row is a model, a column a runtime: milliseconds, with the fastest marked by a star. The dense products of torch
are the fastest there are (``TRIFECTA_ONEDNN`` chooses others). It needs a machine that does nothing else.
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parent.parent))
from arguments import OneLineParser, one_line_errors
from cpu import multiply_with_onednn
from deployment import LatencyComparison, compare_latency

PACKAGES = ("torch", "onnxruntime", "openvino")


def sparse_bert(sparsity: float, block: int, layers: int) -> BertModel:
    """BERT-base with random weights and random masks over the encoder's matrices, ``block`` weights of a row together."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(num_hidden_layers=layers)).eval()
    with torch.no_grad():
        for weight in model.encoder.parameters():
            if weight.ndim == 2:
                units = torch.rand(weight.shape[0], weight.shape[1] // block) >= sparsity
                weight.mul_(units.repeat_interleave(block, dim=1))
    return model


def row(found: LatencyComparison) -> str:
    """The cells of one model."""
    fastest = found.fastest()
    cells = (f"{each.milliseconds:.1f}{'*' if each is fastest else ''}" for each in found.timings)
    return "".join(f"{cell:>18}" for cell in cells) + f"{found.sparse_layers:>10} of {found.linear_layers}"


def main() -> None:
    """Print a table a batch size."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0, 0.8, 0.9, 0.95])
    parser.add_argument("--block", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    options = parser.parse_args()
    multiply_with_onednn()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if importlib.util.find_spec(name)]
    print(f"BERT-base, {options.layers} layers, threads {options.threads}, {', '.join(versions)}")
    for batch in options.batch:
        heading = f"{batch} × {options.length}"
        for sparsity, block in [(sparsity, block) for sparsity in options.sparsity for block in options.block]:
            if sparsity == 0 and block != options.block[0]:
                continue
            model = sparse_bert(sparsity, block, options.layers)
            found = compare_latency(model, batch, options.length, options.rounds, options.threads)
            if heading:
                titles = "".join(f"{each.name:>18}" for each in found.timings)
                print(f"{heading:>16}{titles}   sparse layers")
                heading = ""
            print(f"{f'{sparsity:g} 1×{block}':>16}{row(found)}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
