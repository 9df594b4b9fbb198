"""The command line of a run: LightningCLI with named places for the three things that make one, and a directory of its own.

``--masks`` is a method of sparse training, ``--schedule`` the learning rate's, ``--distillation`` the teachers; each may be left
out, and each of their settings is an option (``--masks.sparsity 0.9``, ``--schedule.max_lr 2e-3``). Further callbacks go into
Lightning's own list, ``trainer.callbacks``.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from jsonargparse import Namespace, set_parsing_settings
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from transformers.utils import logging as transformers_logging

import datamodules  # noqa: F401  (short class names resolve in YAML)
import lightning_modules  # noqa: F401
from arguments import command_line
from callbacks import (
    CheckedCheckpointIO,
    ExportPretrained,
    FinalTest,
    FinalValidation,
    FiniteNumbers,
    FlushLoggers,
    GlueSubmission,
    KnowledgeDistillation,
    PredictionFiles,
    RandomState,
    RankAgreement,
    ResumeRules,
    RollCall,
    RunOverview,
    RunSummary,
    RunTensorBoard,
    SparseTraining,
    SparsityMonitor,
    StallWatchdog,
    StepMonitor,
    StepProgressBar,
    StepwiseSchedule,
    StopOnSignal,
    flat_settings,
    naming_lost_peers,
    quiet_lightning,
)
from command_help import class_help, lightning_errors
from cpu import keep_freed_memory, multiply_with_onednn
from internals import CommandLineFirst, gradients_in_buckets, wait_at_most
from run_config import SaveRunConfig
from run_directory import EVENTS, HoldRun, begun, clear_attempt, directory_of, last_checkpoint, newest_version
from run_record import is_held
from shipped import find_modules_beside, with_shipped_configs
from sparsity import SparseMethod
from strangers import refuse_foreign_classes, refuse_links_out

set_parsing_settings(subclasses_enabled=[SparseMethod])  # a dataclass that stands for any of its subclasses


class TrifectaCLI(CommandLineFirst):
    """LightningCLI with places for masks, schedule and distillation, and runs kept by experiment, whatever logs them."""

    begins_anew = False  # in the directory of a run that died before its first checkpoint

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str, default="default", help="name of the run: RUNS/EXPERIMENT/version_N")
        parser.add_argument("--runs", type=str, default="runs", help="directory of all runs")
        parser.add_argument("--version", type=int | None, default=None, help="N of the run; null takes the next free one")
        parser.add_argument("--masks", type=SparseMethod | None, default=None, help="sparse training; null is dense")
        parser.add_argument("--schedule", type=StepwiseSchedule | None, default=None, help="of the learning rate")
        parser.add_argument("--distillation", type=KnowledgeDistillation | None, default=None, help="from teachers")
        parser.add_argument(
            "--resume.allow",
            type=list[str] | str,
            default=[],
            help="fixed settings that may differ from those of the checkpoint",
        )
        parser.add_argument(
            "--rank_timeout", type=float, default=600.0, help="seconds a rank waits for another, then it is lost"
        )
        parser.add_class_arguments(FiniteNumbers, "numbers")
        parser.add_lightning_class_args(RankAgreement, "agreement")
        parser.add_lightning_class_args(StallWatchdog, "watchdog")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ExportPretrained, "export")
        parser.add_lightning_class_args(GlueSubmission, "submission")
        parser.add_lightning_class_args(PredictionFiles, "predictions")
        parser.set_defaults(
            {
                "checkpoint.filename": "step={step}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.save_last": True,
                "checkpoint.every_n_train_steps": 1000,
                "checkpoint.monitor": "step",  # the newest are the best
                "checkpoint.mode": "max",
                "checkpoint.save_top_k": 2,
                "checkpoint.enable_version_counter": False,  # one last.ckpt, whatever wrote the one before
            }
        )

    def of_subcommand(self, config: Namespace) -> Namespace:
        """What the configuration, or its objects, hold for the subcommand at hand."""
        return config if self.subcommand is None else config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        config = self.of_subcommand(self.config)
        model, data = config.model.get("init_args", {}), config.data.get("init_args", {})
        if model.get("pretrained") and "tokenizer" in data and data.tokenizer is None:
            data.tokenizer = model.pretrained  # a pretrained model speaks its own tokenizer
        if Path(config.experiment).name != config.experiment or config.experiment in ("", "."):
            raise ValueError(f"experiment is {config.experiment!r}; expected a name, of a directory in {config.runs}")
        if config.rank_timeout <= 0:
            raise ValueError(f"rank_timeout is {config.rank_timeout:g}; expected seconds, more than 0")
        if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"trainer.accelerator is {config.trainer.accelerator}, and torch sees no GPU here: give "
                "--trainer.accelerator cpu, or a driver and a build of torch that fit"
            )
        if config.trainer.accumulate_grad_batches < 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches is {config.trainer.accumulate_grad_batches}; expected 1 or more"
            )
        if config.trainer.overfit_batches:
            raise ValueError(
                "trainer.overfit_batches takes away the order of the data, by which a run goes on where it was; "
                "trainer.limit_train_batches is for few batches"
            )
        if config.get("weights_only") is False:
            raise ValueError("weights_only is False, which would run what a checkpoint brings along; leave it out")
        config.weights_only = True  # whatever the environment says, and where a checkpoint comes from
        if config.version is not None and config.version < 0:
            raise ValueError(f"version is {config.version}; expected 0 or more")
        if config.get("ckpt_path") == "last":
            if config.checkpoint.dirpath is not None:
                raise ValueError(
                    "ckpt_path last is looked for where runs keep theirs, not in checkpoint.dirpath: name the file"
                )
            self.go_on_with_last(config)

    def go_on_with_last(self, config: Namespace) -> None:
        """Put the last checkpoint of the newest version, or of the one asked for, in the place of ``last``; say which.

        A version that died before its first checkpoint begins anew.

        Raises:
            ValueError: there is none, and nothing is to be begun; or none can be used.
        """
        experiment = Path(config.runs, config.experiment)
        version = newest_version(experiment) if config.version is None else config.version
        run = None if version is None else experiment / f"version_{version}"
        checkpoint, complaints = last_checkpoint(run) if run else (None, [])
        if checkpoint is None and self.subcommand != "fit":
            raise ValueError(f"ckpt_path last: {run or experiment} has no checkpoint yet")
        for complaint in complaints:
            print(f"ckpt_path last: {complaint}", file=sys.stderr)
        anew = f"{run} died before its first checkpoint and begins anew" if run and begun(run) else "this is a new run"
        print(f"ckpt_path last: {checkpoint or 'there is no checkpoint yet, so ' + anew}", file=sys.stderr)
        config.ckpt_path = str(checkpoint) if checkpoint else None
        self.begins_anew = run is not None and checkpoint is None
        config.version = version

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        multiply_with_onednn()  # here, where nothing on the command line was wrong
        config, made = self.of_subcommand(self.config), self.of_subcommand(self.config_init)
        plugins = as_list(made.trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, CheckedCheckpointIO()]
        if self.subcommand != "fit":
            return super().instantiate_trainer(**{"logger": False} | kwargs)
        run = self.run_directory(config)
        refuse_links_out(run)
        quiet_lightning(resumes=config.ckpt_path is not None)
        if made.checkpoint.dirpath is None:
            made.checkpoint.dirpath = str(run.absolute() / "checkpoints")
        if made.trainer.fast_dev_run:
            made.checkpoint.save_last = False  # which Lightning would write all the same
        self.save_config_kwargs = {"kept": list(run.glob(EVENTS))}
        masks = None if made.masks is None else SparseTraining(made.masks)
        placed = [callback for callback in (made.schedule, made.distillation, masks) if callback is not None]
        rules = ResumeRules(flat_settings(config.as_dict()), as_list(config.resume.allow))
        kwargs |= {
            # masks see no gradient of a skipped step
            "callbacks": [rules, made.numbers, *as_list(made.trainer.callbacks), *placed],
            "default_root_dir": run,
            "logger": made.trainer.logger is not False
            and loggers_in(run, as_list(made.trainer.logger), as_list(config.trainer.logger)),
        }
        trainer = super().instantiate_trainer(**kwargs)
        wait_at_most(trainer, config.rank_timeout)
        gradients_in_buckets(trainer)
        if type(trainer.progress_bar_callback) is RichProgressBar:
            bars: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            bars[bars.index(trainer.progress_bar_callback)] = StepProgressBar()
        return trainer

    def run_directory(self, config: Namespace) -> Path:
        """Where the fit is kept, without what an attempt there has left that had come to nothing."""
        experiment = Path(config.runs, config.experiment)
        if not self.begins_anew:
            return directory_of(experiment, config.version, config.ckpt_path)
        run = experiment / f"version_{config.version}"
        if getattr(rank_zero_only, "rank", 0) == 0 and not is_held(run):
            clear_attempt(run)
        return run


def as_list(given: Any) -> list[Any]:
    """What may be given as a list, as one thing, or not at all."""
    return given if isinstance(given, list) else [] if given in (None, True) else [given]


def loggers_in(run: Path, given: Sequence[Logger], settings: Sequence[Namespace]) -> list[Logger]:
    """The loggers of a run: those that were given, or TensorBoard's.

    Args:
        run: its directory. There a logger that is given ``.``, or no directory, keeps its files.
        given: what the command line asks for.
        settings: their arguments.
    """
    if not given:
        return [RunTensorBoard(run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False)]
    loggers = []
    for logger, setting in zip(given, settings, strict=True):
        arguments = setting.init_args.as_dict() | setting.get("dict_kwargs", Namespace()).as_dict()
        here = "save_dir" in arguments and arguments["save_dir"] in (".", None)
        loggers.append(type(logger)(**arguments | {"save_dir": run}) if here else logger)
    return loggers


def run_subcommand(arguments: list[str] | None = None) -> TrifectaCLI:
    """:func:`build` with what makes a process of training fast and quiet; errors of Lightning are a user's to mend."""
    if help_text := class_help(command_line(arguments)):
        print(help_text)
        sys.exit()
    quiet_lightning()
    keep_freed_memory()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    torch.set_float32_matmul_precision("high")
    with naming_lost_peers(), lightning_errors():
        return build(arguments)


def build(arguments: list[str] | None = None, kind: type[TrifectaCLI] = TrifectaCLI, run: bool = True) -> TrifectaCLI:
    """Parse ``arguments`` (the command line by default), make the objects and, with ``run``, do what the subcommand says.

    Raises:
        ArgumentError: the command line or a file does not parse.
        ValueError: a setting is wrong, or the configuration of a run names foreign classes; MisconfigurationException where
            Lightning finds out, and OSError for files.
    """
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")  # of a report, or of a notebook
    given = with_shipped_configs(sys.argv[1:] if arguments is None else arguments)
    refuse_foreign_classes(given)
    find_modules_beside(given)
    if arguments is None:
        sys.argv[1:] = given  # with which Lightning starts the processes of other GPUs, too
    return kind(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        seed_everything_default=0,
        trainer_defaults={
            "callbacks": [
                *(RandomState(), FlushLoggers(), RunOverview(), StepMonitor(), SparsityMonitor()),
                *(FinalValidation(), FinalTest(), RollCall()),
                RunSummary(),  # last, as it writes when the others have accepted the run
                *(HoldRun(), StopOnSignal()),
            ],
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
        },
        auto_configure_optimizers=False,
        parser_kwargs={"exit_on_error": False} | {name: {"exit_on_error": False} for name in LightningCLI.subcommands()},
        args=None if arguments is None else given,
        run=run,
    )


class _PlannedFit(TrifectaCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Also what the configuration of a run has of its own."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None)
        parser.add_argument("--weights_only", type=bool | None, default=None)

    def instantiate_classes(self) -> None:
        """All objects but the trainer."""
        self.config_init = self.parser.instantiate_classes(self.config)


def planned_fit(arguments: list[str]) -> Namespace:
    """The objects that ``train.py fit ARGUMENTS`` would begin with, as one calls them there, but no trainer; nothing is run.

    Raises:
        ArgumentError: the command line or a file does not parse.
        ValueError: a setting is wrong, or two methods of sparse training are asked for.
    """
    made = build(arguments, _PlannedFit, run=False).config_init
    listed = [callback.method for callback in as_list(made.trainer.callbacks) if isinstance(callback, SparseTraining)]
    given = [*([] if made.masks is None else [made.masks]), *listed]
    if len(given) > 1:
        raise ValueError("two sparse-training callbacks in one run: keep one")
    made.masks = given[0] if given else None
    return made
