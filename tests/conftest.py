"""Fixtures for every package: a tiny corpus, a tokenizer trained on it, an empty cache, and the real-text folder."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from datamodules import GLUEDataModule, TaskDataModule, TextDataModule
from datamodules.tokenizers import train_tokenizer
from fake_glue import write_glue
from fake_tasks import write_tasks
from helpers import CONFIG

torch.set_num_threads(1)

WORDS = (
    *("sparse", "dense", "weights", "networks", "training", "pretraining", "language", "models", "predicted", "masked"),
    *("tokens", "sentences", "documents", "gradients", "layers", "attention", "encoder", "embeddings", "students"),
    *("teachers", "the", "a", "of", "and", "with", "without", "learns", "forgets", "grows", "drops"),
)


@pytest.fixture(scope="module")
def command_line() -> Iterator[None]:
    """Nothing of pytest's own command line, and in the end the precision of matrix products as it was."""
    precision = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py"])
        yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """200 short documents of one to three paragraphs, a paragraph a line."""
    draw = random.Random(0)
    return [
        "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(4, 16))) + "." for _ in range(draw.randint(1, 3)))
        for _ in range(200)
    ]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    """The documents as one ``.txt`` file, an empty line between two."""
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    """A saved WordPiece tokenizer of at most 120 entries, so that most words are several tokens."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(lambda: iter(documents), vocabulary_size=120).save_pretrained(directory)
    return directory


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A cache of this test alone."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The real-text folder beside the project."""
    directory = Path(__file__).parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("no real-text folder beside the project")
    return directory


@pytest.fixture(scope="session")
def text_data(corpus: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TextDataModule]:
    """Builds datamodules on the corpus: 8 sequences of 16 tokens unless told otherwise. All share one cache."""
    cache = tmp_path_factory.mktemp("tokens")
    defaults = {"path": str(corpus), "tokenizer": str(tokenizer_dir), "cache_dir": str(cache)}
    defaults |= {"length": 16, "batch_size": 8, "seed": 0}
    return lambda **options: TextDataModule(**defaults | options)


@pytest.fixture(scope="session")
def glue_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of GLUE, a few rows each; read only."""
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """A saved masked LM of two layers of 32, with dropout and the tests' tokenizer."""
    directory = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(0)
    fields = CONFIG | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**fields, vocab_size=len(tokenizer)))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def glue_data(
    glue_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., GLUEDataModule]:
    """Builds GLUE datamodules: batches of 8, at most 24 tokens unless told otherwise. All share one cache."""
    defaults = {
        "path": str(glue_dir),
        "tokenizer": str(tokenizer_dir),
        "cache_dir": str(tmp_path_factory.mktemp("glue_cache")),
    }
    defaults |= {"length": 24, "batch_size": 8, "seed": 0}
    return lambda task, **options: GLUEDataModule(task, **defaults | options)


@pytest.fixture(scope="session")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks beyond GLUE, a few rows each; read only."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def task_data(
    tasks_dir: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TaskDataModule]:
    """Builds datamodules of the tasks beyond GLUE: batches of 8, at most 32 tokens unless told otherwise. All share one cache."""
    defaults = {
        "path": str(tasks_dir),
        "tokenizer": str(tokenizer_dir),
        "cache_dir": str(tmp_path_factory.mktemp("task_cache")),
    }
    defaults |= {"length": 32, "stride": 8, "batch_size": 8, "seed": 0}
    return lambda task, **options: TaskDataModule(task, **defaults | options)
