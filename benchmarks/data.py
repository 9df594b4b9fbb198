"""What comes before the step: tokens from text, and batches from tokens, beside the usual way of Hugging Face.

``python benchmarks/data.py tokens --text DIRECTORY`` builds the token cache and, by the same tokenizer and with as many processes
as there are processors, what run_mlm makes of the same files: ``datasets.map`` to tokenise, then to group. ``python
benchmarks/data.py batches`` times a batch of 32 × 128, sliced and masked, and ``DataCollatorForLanguageModeling`` on the same
tokens, which it is given in rows.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from finetuning import packaged_minilm

BATCH, LENGTH = 32, 128


def our_tokens(text: str, tokenizer: str) -> tuple[float, int]:
    """Seconds to build the cache from nothing, digests, counts and splits included, and how many tokens are in it."""
    from datamodules import TextDataModule

    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        data = TextDataModule(text, tokenizer=tokenizer, cache_dir=cache)
        data.prepare_data()
        data.setup("fit")
        return time.perf_counter() - began, sum(len(stream.tokens) for stream in data.splits.values())


def their_tokens(text: str, tokenizer: str) -> tuple[float, int]:
    """The same by ``datasets``, as run_mlm does it with ``--line_by_line`` off."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    encode = AutoTokenizer.from_pretrained(tokenizer)

    def tokenise(rows: dict[str, list[str]]) -> Any:
        return encode(rows["text"], return_special_tokens_mask=True)

    def group(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain(*values)) for name, values in rows.items()}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        return {name: [values[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, values in joined.items()}

    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        files = [str(file) for file in sorted(Path(text).rglob("*.txt"))]
        rows = datasets.load_dataset("text", data_files=files, cache_dir=cache, split="train")
        processes = os.cpu_count() or 1
        rows = rows.map(tokenise, batched=True, remove_columns=["text"], num_proc=processes)
        rows = rows.map(group, batched=True, num_proc=processes)
        return time.perf_counter() - began, LENGTH * len(rows)


def tokens(options: argparse.Namespace) -> None:
    """Both in turn."""
    ratios = []
    for _ in range(options.repetitions):
        (own, own_count), (other, other_count) = (way(options.text, options.tokenizer) for way in (our_tokens, their_tokens))
        ratios.append(other / own)
        print(
            f"ours {own:.1f} s for {own_count:,} tokens, datasets {other:.1f} s for {other_count:,}: {other / own:.2f}",
            flush=True,
        )
    print(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast")


def batches(options: argparse.Namespace) -> None:
    """Median milliseconds a batch, of both."""
    from transformers import DataCollatorForLanguageModeling

    from datamodules import Masking, TextDataModule
    from datamodules.text import MaskedLMDataset

    data = TextDataModule("docstrings", length=LENGTH)
    data.prepare_data()
    data.setup("fit")
    dataset = MaskedLMDataset(data.corpus.train, LENGTH, data.tokenizer, Masking(), seed=0)
    collate = DataCollatorForLanguageModeling(data.tokenizer, mlm_probability=0.15)
    inside = LENGTH - 2
    times: dict[str, list[float]] = {"ours": [], "DataCollatorForLanguageModeling": []}
    for number in range(options.repetitions * 100):
        examples = [example % (len(dataset) - 1) for example in range(number * BATCH, (number + 1) * BATCH)]
        slices = [data.corpus.train.tokens[start * inside : (start + 1) * inside].tolist() for start in examples]
        rows = [{"input_ids": [data.tokenizer.cls_token_id, *row, data.tokenizer.sep_token_id]} for row in slices]
        for name, make in (
            ("ours", lambda e=examples: dataset.__getitems__(e)),
            (collate.__class__.__name__, lambda r=rows: collate(r)),
        ):
            began = time.perf_counter()
            make()
            times[name].append(time.perf_counter() - began)
    for name, taken in times.items():
        print(f"{name}: {1e3 * statistics.median(taken):.2f} ms a batch of {BATCH} × {LENGTH}")


def main() -> None:
    """Either of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokens", "batches"))
    parser.add_argument("--text", help="tokens: a directory of .txt files")
    parser.add_argument("--tokenizer", default=None, help="directory or hub id; by default that of the packaged MiniLM")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    options.tokenizer = options.tokenizer or packaged_minilm()
    if options.what == "tokens" and not options.text:
        parser.error("tokens needs --text")
    (tokens if options.what == "tokens" else batches)(options)


if __name__ == "__main__":
    main()
