"""Finished models in use: packed into one file, with sparse linear layers on a CPU, and as files of other runtimes."""

from deployment.compressed import WEIGHTS_FILE, pack, unpack
from deployment.exchange import FILES, TOLERANCE, Agreement, Format, agreement, constants, export, kept_zeros, session
from deployment.inference import sparsify_linears_
from deployment.loading import Loaded, load, load_model

__all__ = [
    "FILES",
    "TOLERANCE",
    "WEIGHTS_FILE",
    "Agreement",
    "Format",
    "Loaded",
    "agreement",
    "constants",
    "export",
    "kept_zeros",
    "load",
    "load_model",
    "pack",
    "session",
    "sparsify_linears_",
    "unpack",
]
