"""How evenly masks spread over neurons: ``python benchmarks/mask_balance.py EXPORT …``, directories of exported models.

For each sparse matrix the coefficient of variation of the active weights an output and an input neuron has, and how many have
none. Masks drawn at random stay near sqrt((1 - density) / (density · fan)); growth by gradient does not.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
from sparsity import load_masks


def main(directories: list[str]) -> None:
    """Print a table a model."""
    for directory in directories:
        masks = load_masks(Path(directory))
        if masks is None:
            sys.exit(f"error: {directory}: no masks there")
        table = Table("tensor", "cv of outputs", "dead outputs", "cv of inputs", "dead inputs", title=directory)
        for name, mask in masks.items():
            cells = []
            for axis in (1, 0):
                counts = mask.sum(axis).float()
                cells += [f"{counts.std() / counts.mean():.2f}", f"{int((counts == 0).sum())} of {len(counts)}"]
            table.add_row(name, *cells)
        Console(width=110).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
