"""Finished models in use: packed into one file, with sparse linear layers on a CPU, and as files of other runtimes."""

from deployment.compressed import WEIGHTS_FILE, pack, unpack
from deployment.exchange import FILES, TOLERANCE, Agreement, Format, agreement, constants, export, kept_zeros, session
from deployment.inference import sparsify_linears_
from deployment.latency import LatencyComparison, compare_latency
from deployment.loading import Loaded, load, load_model
from deployment.model_card import write_card
from deployment.push import check_repository, files_to_push, push
from deployment.semi_structured import semi_structured_layers, to_semi_structured_

__all__ = [
    "FILES",
    "TOLERANCE",
    "WEIGHTS_FILE",
    "Agreement",
    "Format",
    "LatencyComparison",
    "Loaded",
    "agreement",
    "check_repository",
    "compare_latency",
    "constants",
    "export",
    "files_to_push",
    "kept_zeros",
    "load",
    "load_model",
    "pack",
    "push",
    "semi_structured_layers",
    "session",
    "sparsify_linears_",
    "to_semi_structured_",
    "unpack",
    "write_card",
]
