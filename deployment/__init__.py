"""Finished models in use: packed into one file, and with sparse linear layers on a CPU."""

from deployment.compressed import WEIGHTS_FILE, pack, unpack
from deployment.inference import sparsify_linears_
from deployment.latency import LatencyComparison, compare_latency, load_model

__all__ = [
    "WEIGHTS_FILE",
    "LatencyComparison",
    "compare_latency",
    "load_model",
    "pack",
    "sparsify_linears_",
    "unpack",
]
