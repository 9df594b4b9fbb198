"""Finetuning what is sparse already."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from callbacks.sparse_training import SparseTraining, total_steps
from hub import local_or_hub
from pretrained import read_config, reading
from sparsity import MaskSet, SparseStepping, load_masks, methods

LEAST_ZEROS = 0.01


@dataclass(eq=False, kw_only=True)
class InheritedMasks(methods.Static):
    """Masks that came with a pretrained model.

    Args:
        pretrained: ``save_pretrained`` directory or hub id of that model.
    """

    pretrained: str = field(default="", repr=False)
    sparsity: float | None = field(default=None, init=False)  # what was found, which is no setting

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = MaskSet({})  # by the names in the model, before it is trained

    def initial_masks(self, weights: Mapping[str, Tensor], scope_size: int) -> MaskSet:
        self.nnz = self.found.nnz()
        return self.found


class InheritedSparsity(SparseTraining):
    """The masks of the model a run starts from, held: those of its export and, for a matrix without one, its zeros.

    Args:
        pretrained: ``save_pretrained`` directory or hub id of that model.
        what: is expected there, in words.
    """

    def __init__(self, pretrained: str, what: str = "model") -> None:
        self.inherited = InheritedMasks(pretrained=pretrained)
        super().__init__(self.inherited)
        self.pretrained, self.what = pretrained, what

    @cached_property
    def saved(self) -> Mapping[str, Tensor]:
        """Masks of the export, by the names that the weights have in its model; none where it brings none."""
        return load_masks(Path(local_or_hub(self.pretrained, self.what))) or {}

    @cached_property
    def found(self) -> MaskSet | None:
        """Masks by name in the encoder, without the prefix that the encoder has in a larger model; None if it is dense.

        A matrix with less than 1 % of zeros, the row of a padding token left out, is dense. One that has nothing but zeros is
        not in use, like RoBERTa's table of segments.

        Raises:
            ValueError: no model there, or masks that do not fit it.
        """
        path = local_or_hub(self.pretrained, self.what)
        config, _ = read_config(path, self.what)
        # what a run draws next does not depend on this look, and what does not fit is for the model itself to name
        with reading(path, self.what), torch.random.fork_rng(devices=[]):
            encoder = AutoModel.from_pretrained(path, config=config, weights_only=True, ignore_mismatched_sizes=True)
        matrices = {name: weight for name, weight in encoder.named_parameters() if weight.dim() >= 2}
        named = {name.removeprefix(f"{encoder.base_model_prefix}."): mask for name, mask in self.saved.items()}
        sparse = {name: weight for name, weight in matrices.items() if LEAST_ZEROS <= _zeros(encoder, weight) < 1}
        inferred = MaskSet.from_zeros(sparse)
        masks = MaskSet({**inferred, **{name: mask for name, mask in named.items() if name in matrices}})
        return masks.to_parameters(matrices) if len(masks) else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.stepping is not None:
            self.method.sparsity = 1 - self.stepping.density

    def begin(self, model: PreTrainedModel, trainer: Trainer) -> SparseStepping:
        """The masks found, under their names in ``model``, and those of the export for a head whose zeros the model has."""
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        parameters = dict(model.named_parameters())
        of_head = {name: mask for name, mask in self.saved.items() if _has_zeros(parameters.get(name), mask)}
        masks = MaskSet(of_head | {f"{prefix}{name}": mask for name, mask in (self.found or {}).items()})
        self.inherited.found = masks.to_parameters(parameters)
        return SparseStepping(self.method, {name: parameters[name] for name in masks}, total_steps(trainer), trained=True)


def _has_zeros(weight: nn.Parameter | None, mask: Tensor) -> bool:
    """Whether a weight is of a mask's shape and zero where that is off, as a head that starts anew is not."""
    return weight is not None and weight.shape == mask.shape and not bool(weight.detach()[~mask.to(weight.device)].any())


def _zeros(encoder: PreTrainedModel, weight: nn.Parameter) -> float:
    """Share of zeros of one of the encoder's matrices, those of a padding token's row not counted."""
    zeros = weight == 0
    for module in encoder.modules():
        if isinstance(module, nn.Embedding) and module.weight is weight and module.padding_idx is not None:
            zeros[module.padding_idx] = False
    return float(zeros.float().mean())
