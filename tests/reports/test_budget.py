"""Where weights are, planned and exported: exact counts that agree with what a fit then does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from callbacks import ExportPretrained, RigL
from cli import planned_fit
from datamodules import TextDataModule
from helpers import fit, parameters
from objectives.parameter_groups import sparse_weights
from reports import budget
from reports.budget import exported_budget
from reports.tables import Table
from sparsity import SparseStepping

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Data = Callable[..., TextDataModule]
CONFIGS = Path(__file__).parents[2] / "configs"


def planned_budget(arguments: list[str], vocabulary_size: int) -> list[Table]:
    """The budget of a command line."""
    fit = planned_fit(arguments)
    return budget.planned_budget(fit.model, fit.data, fit.masks, vocabulary_size)


def totals(table: Table) -> dict[str, tuple[int, ...]]:
    """Parameters, non-zeros and zeros of each group."""
    return {row[0]: tuple(int(cell.replace(",", "")) for cell in row[1:4]) for row in table.rows}


def counts(table: Table, column: str = "nnz") -> dict[str, int]:
    index = list(table.columns).index(column)
    return {row[0]: int(row[index].replace(",", "")) for row in table.rows}


def test_budget_of_the_published_recipe_at_base_size() -> None:
    """BERT-base with 30,522 tokens has 109,514,298 parameters; 12·(4·768² + 2·768·3072) + 30522·768 of them are sparse."""
    config = CONFIGS / "experiments" / "sparse_80_kd_onecycle_lr_rigl.yaml"
    tensors, groups = planned_budget([f"--config={config}"], 30522)
    encoder, words = 12 * (4 * 768**2 + 2 * 768 * 3072), 30522 * 768
    zeros = round(0.8 * (encoder + words))
    found = totals(groups)
    assert found["sparse tensors"] == (encoder + words, encoder + words - zeros, zeros)
    assert found["model"] == (109_514_298, 109_514_298 - zeros, zeros)
    assert found["encoder matrices"][0] == encoder
    assert found["embeddings"][0] == words + 512 * 768 + 2 * 768 + 2 * 768
    assert sum(counts(tensors).values()) == 109_514_298 - zeros
    shapes = {row[0]: row[1] for row in tensors.rows}
    assert shapes["bert.encoder.layer.11.output.dense.weight"] == "768×3072"
    assert "30,522 tokens, as --vocabulary_size says" in groups.notes[0]


def test_the_plan_is_what_a_fit_starts_with_and_the_export_ends_with(
    tmp_path: Path, text_data: Data, tokenizer_dir: Path
) -> None:
    """The last step grows weights that are still 0.0, and the padding token's row is 0.0 from the start."""
    rigl = RigL(sparsity=0.8, every=4, stop=1.0, distribution="erdos_renyi", targets=("*.encoder.*.weight", "*word_emb*"))
    trainer = fit(tmp_path, text_data(), [rigl, ExportPretrained()], max_steps=5)
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    options = ["--model=MaskedLanguageModel", *(f"--model.config.{name}={value}" for name, value in size.items())]
    options += ["--data=TextDataModule", f"--data.tokenizer={tokenizer_dir}", "--trainer.max_steps=5"]
    options += ["--trainer.callbacks+=RigL", "--trainer.callbacks.distribution=erdos_renyi"]
    options += ["--trainer.callbacks.targets=['*.encoder.*.weight', '*word_emb*']"]
    planned, planned_totals = planned_budget(options, 7)
    file = tmp_path / "export" / "model.safetensors"
    in_file = load_file(file)
    in_file["bert.embeddings.position_embeddings.weight"][3] = 0.0  # a dense tensor with zeros
    save_file(in_file, file, {"format": "pt"})
    exported, exported_totals = exported_budget(tmp_path / "export")

    assert {name: counts(planned)[name] for name in rigl.masks} == rigl.stepping.initial_nnz
    assert counts(exported, "nnz by masks") == counts(planned)
    for name, nnz in counts(exported).items():
        if name in in_file:
            assert nnz == int((in_file[name] != 0).sum())
        if name in rigl.masks:
            assert nnz == int((parameters(trainer)[name] != 0).sum())
    groups = ("sparse tensors", "encoder matrices", "model")
    for group in groups:
        assert totals(planned_totals)[group][0] == totals(exported_totals)[group][0]
    grown = counts(exported, "nnz by masks")["bert.encoder.layer.0.output.dense.weight"]
    assert counts(exported)["bert.encoder.layer.0.output.dense.weight"] < grown
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "export")
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert totals(exported_totals)["model"] == (model.num_parameters(), model.num_parameters() - zeros, zeros)


@pytest.mark.parametrize(
    ("options", "size", "note"),
    [
        ([], 500, "500 tokens, as --vocabulary_size says, because google-bert/bert-base-uncased is not on this machine"),
        (["--model.config.vocab_size=300"], 300, "300 tokens, as the config says"),
        (["--data.tokenizer=null", "--data.vocabulary_size=200"], 200, "200 tokens, the most that the trained one may have"),
    ],
)
def test_where_the_vocabulary_comes_from(options: list[str], size: int, note: str) -> None:
    config, tiny = CONFIGS / "experiments" / "bert_100k.yaml", CONFIGS / "model" / "tiny.yaml"
    tensors, groups = planned_budget([f"--config={config}", f"--model={tiny}", *options], 500)
    assert counts(tensors)["bert.embeddings.word_embeddings.weight"] == size * 128
    assert groups.notes[0].startswith("dense: no method of sparse training.")
    assert note in groups.notes[0]
    assert "sparse tensors" not in totals(groups)
    assert totals(groups)["model"][2] == 0


def test_an_export_without_masks_and_one_in_several_files(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    whole = exported_budget(tmp_path / "export")
    assert "nnz by masks" not in whole[0].columns
    assert whole[1].notes[0].endswith("There are no masks.")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export", num_labels=3)
    classifier.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    (sharded, _) = exported_budget(tmp_path / "shards")
    assert counts(sharded)["classifier.weight"] == 3 * 32
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.weight"):
        assert counts(sharded)[name] == counts(whole[0])[name]


def test_files_that_are_not_the_model_are_refused(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    file = tmp_path / "export" / "model.safetensors"
    tensors = load_file(file)
    name = "bert.encoder.layer.0.output.dense.bias"
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(ValueError, match=f"1 tensors of the model are in no file, the first is {name}"):
        exported_budget(tmp_path / "export")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        exported_budget(tmp_path / "export")


def test_a_global_budget_is_that_of_weights_as_they_are_drawn() -> None:
    """Not of zeros, of which the first of the model would be the largest: by chance all layers have much the same."""
    tiny = CONFIGS / "model" / "tiny.yaml"
    options = [f"--config={CONFIGS / 'experiments' / 'bert_100k.yaml'}", f"--model={tiny}", "--trainer.callbacks+=OneShot"]
    tensors, groups = planned_budget([*options, "--trainer.callbacks.distribution=global"], 500)
    nnz = {name: count for name, count in counts(tensors).items() if ".layer." in name}
    sizes = {row[0]: eval(row[1].replace("×", "*")) for row in tensors.rows if ".layer." in row[0]}
    assert all(0.15 < nnz[name] / sizes[name] < 0.25 for name in sizes)
    assert sum(nnz.values()) == sum(sizes.values()) - round(0.8 * sum(sizes.values()))
    assert "OneShot, sparsity 0.8, global." in groups.notes[0]


def test_the_note_says_what_was_asked() -> None:
    tiny = [f"--config={CONFIGS / 'experiments' / 'bert_100k.yaml'}", f"--model={CONFIGS / 'model' / 'tiny.yaml'}"]
    _, groups = planned_budget([*tiny, "--trainer.callbacks+=RigL", "--trainer.callbacks.nonzeros=300000"], 500)
    assert "RigL, nonzeros 300000, uniform." in groups.notes[0]
    assert totals(groups)["model"][1] == 300_000
    two = ["--trainer.callbacks+=RigL", "--trainer.callbacks+=SET"]
    with pytest.raises(ValueError, match="two sparse-training callbacks in one run"):
        planned_budget([*tiny, *two], 500)


@pytest.mark.parametrize("name", ["sparse_80_exact_embeddings", "sparse_80_exact_encoder"])
def test_exactly_four_fifths_of_an_exported_bert_base_are_zero(tmp_path: Path, name: str) -> None:
    """By the method of the config, counted in the file; the plan says the same of every tensor."""
    config = f"--config={CONFIGS / 'experiments' / name}.yaml"
    planned, planned_totals = planned_budget([config], 30522)
    method = planned_fit([config]).masks
    model = BertForMaskedLM(BertConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)  # biases and the padding token's row are not zero by chance
    weights, scope_size = sparse_weights(method, model)
    SparseStepping(method, weights, 1, scope_size)
    model.save_pretrained(tmp_path)
    exported, exported_totals = exported_budget(tmp_path)
    assert counts(exported) == counts(planned)
    total, nonzeros, zeros = totals(exported_totals)["model"]
    assert (total, zeros) == (109_514_298, 87_611_438)
    assert zeros == round(0.8 * total)
    assert totals(planned_totals)["model"] == (total, nonzeros, zeros)
    table = model.get_input_embeddings().weight
    assert int((table != 0).sum(1).max() - (table != 0).sum(1).min()) <= 1  # no token dies
