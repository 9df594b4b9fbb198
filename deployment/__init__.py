"""Finished models in use: packed into one file, and with sparse linear layers on a CPU."""

from deployment.compressed import WEIGHTS_FILE, pack, unpack
from deployment.inference import interleaved_seconds, sparsify_linears_

__all__ = ["WEIGHTS_FILE", "interleaved_seconds", "pack", "sparsify_linears_", "unpack"]
