"""Files that are nearly right, and what may come of reading them: what they hold, or an error that a user can mend."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save

from datamodules.documents import check_column, pieces_of_file
from deployment.compressed import pack, read_compressed
from objectives.glue import GLUE
from datamodules.glue_files import read_tsv
from run_record import RunRecord
from sparsity import MASKS_FILE, MaskSet, load_masks, save_masks
from sweeps.protocol import load_protocol
