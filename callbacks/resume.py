"""What a resumed run may change: a table of settings, the batch of all devices, and micro-batches counted anew."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.sparse_training import SparseTraining
from datamodules import FinetuningDataModule, TextDataModule, run_seed
from internals import micro_batches_anew

Kind = Literal["fixed", "free", "follows"]


class Rule(NamedTuple):
    """What becomes of a setting when a run goes on.

    Attributes:
        pattern: shell pattern of names of settings, as on the command line.
        kind: ``fixed`` has to stay; ``free`` changes nothing that is computed; ``follows`` is what the command line says from
            there on.
        why: it is so.
    """

    pattern: str
    kind: Kind
    why: str


RULES = (
    Rule("seed_everything", "fixed", "shuffling, masking and random masks follow it"),
    Rule("batch", "fixed", "sequences of an optimizer step: devices × batch_size × accumulate_grad_batches"),
    Rule("text", "fixed", "what there is to train on, by its content"),
    Rule("data.batch_size", "free", "as long as `batch` stays"),
    Rule("data.num_workers", "free", "batches are functions of their numbers"),
    Rule("data.cache_dir", "free", "tokens are the same wherever they lie"),
    Rule("data.eval_*", "follows", "validation is nobody's teacher"),
    Rule("data.*_path", "follows", "texts to validate and to test on"),
    Rule("data.*", "fixed", "it makes the batches"),
    Rule("model.compile_encoder", "free", "the same function, compiled"),
    Rule("model*", "fixed", "weights, optimizer and objective are in the checkpoint"),
    Rule("masks*", "fixed", "so are the masks and what they grow to"),
    Rule("schedule*", "fixed", "and the learning rate's way"),
    Rule("distillation.cache", "fixed", "whether there is one: the objective is another then. The directory may change"),
    Rule("distillation*", "fixed", "it is the objective"),
    Rule("trainer.max_steps", "fixed", "learning rate, masks and distillation end with it"),
    Rule("trainer.max_epochs", "fixed", "likewise"),
    Rule("trainer.precision", "fixed", "weights and moments are kept in it"),
    Rule("trainer.gradient_clip_*", "fixed", "it changes every step"),
    Rule("trainer.limit_train_batches", "fixed", "it is the length of an epoch"),
    Rule("trainer.accumulate_grad_batches", "free", "as long as `batch` stays"),
    Rule("trainer.devices", "free", "as long as `batch` stays"),
    Rule("trainer.num_nodes", "free", "as long as `batch` stays"),
    Rule("trainer.accelerator", "free", "to rounding"),
    Rule("trainer.strategy*", "free", "to rounding"),
    Rule("trainer.*", "follows", "when to validate, to log and to stop; further callbacks"),
    Rule("checkpoint.*", "follows", "when to save, and how many to keep"),
    Rule("export.*", "follows", "what is exported is the model at that time"),
    Rule("*", "free", "names and places"),
)
"""The first rule whose pattern matches counts."""

OF_MASKS = frozenset(
    f"masks.{name}"
    for name in ("sparsity", "nonzeros", "distribution", "scope", "targets", "sparsities", "initialization", "seed")
)
"""Settings of masks that nothing reads once there are some: a run that goes on has those of its checkpoint."""


def rule_of(name: str) -> Rule:
    """The rule of a setting."""
    return next(rule for rule in RULES if fnmatchcase(name, rule.pattern))


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as its options would name it: ``{"masks": "RigL", "masks.sparsity": 0.8, …}``.

    A class stands under the name of its place, without its package.
    """
    flat: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            if "class_path" in value:
                flat[name] = str(value["class_path"]).rpartition(".")[2]
            for key, entry in value.items():
                if key != "class_path":
                    walk(name if key in ("init_args", "dict_kwargs") else f"{name}.{key}" if name else key, entry)
        else:
            value = list(value) if isinstance(value, tuple) else value
            flat[name] = value if isinstance(value, str | int | float | list | None) else str(value)

    walk("", config)
    return flat


def mask_settings(trainer: Trainer) -> dict[str, Any]:
    """Those of the method of sparse training, wherever it was given."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, SparseTraining):
            method = callback.method
            given = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
            # patterns are one setting: the first match wins, so that their order counts, too
            given = {name: str(value) if isinstance(value, Mapping) else value for name, value in given.items()}
            given["seed"] = run_seed(method.seed)
            return flat_settings({"masks": {"class_path": f".{type(method).__name__}", "init_args": given}})
    return {"masks": None}


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the fixed settings that differ.

    One that only one side knows counts where it is a place (``masks``), a batch, or a field of the model's config.
    """
    names = [name for name in {**before, **now} if rule_of(name).kind == "fixed"]
    known = [
        name for name in names if (name in before and name in now) or "." not in name or name.startswith("model.config.")
    ]
    return [name for name in known if before.get(name) != now.get(name)]


class ResumeRules(Callback):
    """Keeps the settings of a run in its checkpoints, and refuses to go on from one with other settings that are fixed.

    Another number of devices or micro-batches goes on with the same examples, as long as an optimizer step has as many.

    Args:
        settings: of the run, by name (:func:`flat_settings`); those that are not fixed are ignored.
        allow: names of fixed settings that may differ all the same. What the checkpoint holds stays: weights, moments, masks,
            and the rates of a schedule that is under way.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, allow: Iterable[str] = ()) -> None:
        self.settings, self.allow = dict(settings or {}), set(allow)
        self._trainer: Trainer | None = None
        if unknown := sorted(name for name in self.allow if rule_of(name).kind != "fixed"):
            raise ValueError(f"resume.allow: {unknown[0]} may change anyway; docs/resuming.md lists what is fixed")
        if made := sorted(self.allow & OF_MASKS):
            raise ValueError(
                f"resume.allow: {made[0]} made the masks, which are in the checkpoint, and would change nothing; start a new "
                "run, from the exported model (model.pretrained) if it is to go on with its weights"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def all_settings(self, trainer: Trainer) -> dict[str, Any]:
        """The fixed settings, with what can be known only now: the seed, the batch, and the text."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        found: dict[str, Any] = {"seed_everything": run_seed(None) if "PL_GLOBAL_SEED" in os.environ else None}
        for name, value in self.settings.items():
            if rule_of(name).kind == "fixed" and name.partition(".")[0] != "masks":
                found.setdefault(name, value)
        if found.get("distillation.cache") is not None:
            found["distillation.cache"] = "a directory"
        found |= mask_settings(trainer) | {"trainer.precision": str(trainer.precision)}
        if isinstance(data, TextDataModule | FinetuningDataModule):
            found["batch"] = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        if isinstance(data, TextDataModule):
            found["text"] = data.corpus.fingerprint
            found = {name: value for name, value in found.items() if name not in ("data.path", "data.column")}
        return found

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare, and count micro-batches anew where they are of another size.

        Raises:
            ValueError: a fixed setting differs.
        """
        saved = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn != "fit" or saved is None:
            return
        before, now = saved["settings"], self.all_settings(trainer)
        changed = changed_settings(before, now)
        refused = [name for name in changed if name not in self.allow]
        if refused:
            first = refused[0]
            others = f" (and {', '.join(refused[1:])})" if refused[1:] else ""
            otherwise = "or start a new run" if first in OF_MASKS else f"start a new run, or say --resume.allow {first}"
            raise ValueError(
                f"{first} was {before.get(first)!r} when the checkpoint was written and is {now.get(first)!r} now{others}: "
                f"give what it was, {otherwise}"
            )
        for name in changed:
            rank_zero_warn(f"the run goes on with {name} {now.get(name)!r}, until here {before.get(name)!r}")
        micro_batches = trainer.accumulate_grad_batches
        if saved["micro_batches"] != micro_batches:
            if isinstance(trainer.datamodule, FinetuningDataModule):  # type: ignore[attr-defined]
                raise ValueError(
                    f"trainer.accumulate_grad_batches was {saved['micro_batches']} and is {micro_batches} now: micro-batches of "
                    "similar length are drawn one by one, so a finetuning goes on with as many"
                )
            micro_batches_anew(checkpoint, saved["micro_batches"], micro_batches)

    def state_dict(self) -> dict[str, Any]:
        if self._trainer is None:
            return {}
        return {
            "settings": self.all_settings(self._trainer),
            "micro_batches": self._trainer.accumulate_grad_batches,
        }
