"""Pretraining beside ``transformers.Trainer``: tokens a second, peak memory, and share of the fastest matrix product.

``python benchmarks/pretraining.py`` trains BERTs of several sizes both ways in turn, each time in a process of its own: the
product as ``train.py fit`` does it, and ``Trainer`` with ``DataCollatorForLanguageModeling``, on the same token slices, with the
same model, batch and AdamW, without dropout. The first third of the steps is not timed. The peak is the best of
square matrix products in fp32 (and bf16) measured in the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent.parent))
from cpu import keep_freed_memory, multiply_with_onednn

ROOT = Path(__file__).parent.parent
SIZES = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "small": {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BATCHES = {"tiny": 32, "mini": 32, "small": 16, "base": 8}
LENGTH, VOCABULARY, RATE, DECAY = 128, 30522, 1e-3, 0.01
STEPS = {"tiny": 45, "mini": 30, "small": 24, "base": 12}


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """The best of a few matrix products of this process's library, in FLOP/s."""
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        began = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


class Clock:
    """Optimizer steps of a fit and when they ended; the first third is left out of the rate."""

    def __init__(self, steps: int) -> None:
        self.first, self.steps = steps // 3, steps
        self.ends: list[float] = []

    def tick(self) -> None:
        self.ends.append(time.perf_counter())

    def tokens_a_second(self, batch: int) -> float:
        return (self.steps - self.first) * batch * LENGTH / (self.ends[self.steps - 1] - self.ends[self.first - 1])


def product(size: str, precision: str, profiled: bool = False, compiled: bool = False) -> dict[str, float]:
    """The product's own command line, a callback more; with ``profiled`` the operators that take longest are printed."""
    from pytorch_lightning import Callback

    import cli

    clock, profiler = Clock(STEPS[size]), profile(activities=[ProfilerActivity.CPU])

    class Ticks(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()
            if profiled and len(clock.ends) == clock.first:
                profiler.start()
            if profiled and len(clock.ends) == clock.steps:
                profiler.stop()
                print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))

    class Timed(cli.TrifectaCLI):
        def instantiate_trainer(self, **options: Any) -> Any:
            trainer = super().instantiate_trainer(**options)
            trainer.callbacks.append(Ticks())
            return trainer

    with tempfile.TemporaryDirectory() as runs:
        options = {
            **{"runs": runs, "experiment": "timed", "model": "MaskedLanguageModel", "model.config.model_type": "bert"},
            **{f"model.config.{name}": value for name, value in (SIZES[size] | DROPOUT).items()},
            **{"model.compile_encoder": str(compiled).lower(), "model.weight_decay": DECAY},
            **{"schedule": "OneCycleLR", "schedule.max_lr": RATE},
            **{"data": "docstrings", "data.length": LENGTH, "data.batch_size": BATCHES[size], "data.num_workers": 0},
            **{"data.vocabulary_size": VOCABULARY, "trainer.max_steps": STEPS[size], "trainer.accelerator": "cpu"},
            **{"trainer.precision": precision, "trainer.limit_val_batches": 0, "trainer.enable_progress_bar": "false"},
            **{
                "trainer.enable_checkpointing": "true",
                "checkpoint.every_n_train_steps": 10**9,
                "checkpoint.save_last": "false",
            },
        }
        arguments = ["fit", *(f"--{name}={value}" for name, value in options.items())]
        sys.argv[1:] = arguments
        cli.build(arguments, Timed)
        summary = json.loads((Path(runs) / "timed" / "version_0" / "summary.json").read_text())
    flops = summary.get("flops_per_step", float("nan")) / (BATCHES[size] * LENGTH)  # not counted of a compiled encoder
    return {
        "tokens": clock.tokens_a_second(BATCHES[size]),
        "memory": summary["peak_memory_mb"],
        "flops": flops,
        "peak": matmul_peak(torch.bfloat16 if precision == "bf16-mixed" else torch.float32),
    }


def peer(size: str, precision: str) -> dict[str, float]:
    """``transformers.Trainer`` on the slices of the same token cache."""
    import resource

    import transformers

    from datamodules import TextDataModule

    data = TextDataModule("docstrings", length=LENGTH, batch_size=BATCHES[size], vocabulary_size=VOCABULARY)
    data.prepare_data()
    data.setup("fit")
    tokenizer, clock = data.tokenizer, Clock(STEPS[size])
    tokens, inside = data.splits["train"].tokens, LENGTH - 2
    rows = [
        {"input_ids": [tokenizer.cls_token_id, *tokens[start : start + inside].tolist(), tokenizer.sep_token_id]}
        for start in range(0, inside * STEPS[size] * BATCHES[size], inside)
    ]
    config = transformers.BertConfig(**SIZES[size], **DROPOUT, vocab_size=len(tokenizer))
    transformers.set_seed(0)

    class Ticks(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as output:
        trainer = transformers.Trainer(
            transformers.BertForMaskedLM(config),
            transformers.TrainingArguments(
                output_dir=output,
                max_steps=STEPS[size],
                per_device_train_batch_size=BATCHES[size],
                learning_rate=RATE,
                weight_decay=DECAY,
                bf16=precision == "bf16-mixed",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
            train_dataset=rows,  # type: ignore[arg-type]  # a list is a data set
            callbacks=[Ticks()],
        )
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"tokens": clock.tokens_a_second(BATCHES[size]), "memory": peak}


def main() -> None:
    """Both in turn, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--one", nargs=2, metavar=("WHICH", "SIZE"), help="one run, in this process, as JSON on the last line"
    )
    parser.add_argument("--profile", action="store_true", help="with --one product: print where the time goes")
    parser.add_argument("--compiled", action="store_true", help="with --one product: torch.compile on the encoder")
    options = parser.parse_args()
    if options.one:
        which, size = options.one
        if which == "product":  # as train.py does
            keep_freed_memory()
            multiply_with_onednn()
        further = {name: True for name, wanted in (("profiled", options.profile), ("compiled", options.compiled)) if wanted}
        print(json.dumps({"product": product, "peer": peer}[which](size, options.precision, **further)))
        return
    print("size   tokens/s  peer   ratio (spread)      memory MB  peer  share   of peak GFLOP/s")
    for size in options.sizes:
        runs: dict[str, list[dict[str, float]]] = {"product": [], "peer": []}
        for _ in range(options.repetitions):
            for which, found in runs.items():
                command = [sys.executable, __file__, "--one", which, size, "--precision", options.precision]
                ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
                if ended.returncode:
                    sys.exit(ended.stderr[-2000:])
                found.append(json.loads(ended.stdout.splitlines()[-1]))
        own, other = ([run["tokens"] for run in runs[which]] for which in ("product", "peer"))
        ratios = [one / two for one, two in zip(own, other, strict=True)]
        memory = [statistics.median(run["memory"] for run in runs[which]) for which in ("product", "peer")]
        peak = max(run["peak"] for run in runs["product"])
        rate = statistics.median(own)
        print(
            f"{size:<6} {rate:>8,.0f} {statistics.median(other):>7,.0f}  {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})  {memory[0]:>8,.0f} {memory[1]:>6,.0f}  {memory[0] / memory[1]:.2f}  "
            f"{rate * runs['product'][0]['flops'] / peak:.2f} {peak / 1e9:,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
