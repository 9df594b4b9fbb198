"""The tasks beyond GLUE from the command line: fit, validate and predict with the shipped configs, and a table of it all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import report
import train
from benchmarks.finetuning import packaged_minilm
from callbacks import PredictionFiles, StaticSparsity
from datamodules import TaskDataModule
from helpers import copies, fit, parameters, tiny_trainer
from lightning_modules import TaskModel
from objectives.beyond_glue import BEYOND_GLUE
from sweeps.protocol import load_protocol

ROOT = Path(__file__).parent.parent
CONFIGS = {"SQuAD": "squad/finetune", "SQuAD2": "squad/finetune_v2", "SWAG": "swag/finetune", "CoNLL": "conll/finetune"}

pytestmark = pytest.mark.filterwarnings("ignore:.*")


@pytest.mark.parametrize("task", BEYOND_GLUE)
@pytest.mark.usefixtures("command_line")
def test_a_shipped_config_fits_scores_and_answers(
    tmp_path: Path, tasks_dir: Path, encoder_dir: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only sizes and places are other than shipped."""
    config = f"--config={ROOT / 'configs' / CONFIGS[task]}.yaml"
    data = ["--data.length=32", f"--data.path={tasks_dir}", f"--data.cache_dir={tmp_path / 'cache'}", "--data.batch_size=8"]
    data += ["--data.stride=8", "--trainer.accelerator=cpu"]
    fitting = [f"--runs={tmp_path}", "--version=0", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    train.main(["fit", config, *data, *fitting, f"--model.pretrained={encoder_dir}"])
    (summary,) = tmp_path.glob("*/version_0/summary.json")
    record = json.loads(summary.read_text())
    assert (record["task"], record["status"], record["pretrained"]) == (task, "finished", str(encoder_dir))
    assert set(BEYOND_GLUE[task].metrics) <= record["metrics"].keys()
    export = [f"--model.pretrained={summary.parent / 'export'}"]
    made = train.main(["validate", config, *data, *export, "--trainer.enable_progress_bar=false"])
    again = {name: float(made.trainer.callback_metrics[f"val/{name}"]) for name in BEYOND_GLUE[task].metrics}
    assert again == pytest.approx({name: record["metrics"][name] for name in again}, abs=1e-6)
    train.main(["predict", config, *data, *export, f"--predictions.directory={tmp_path / 'answers'}"])
    assert any((tmp_path / "answers").glob("predictions.*"))
    card = (summary.parent / "export" / "README.md").read_text(encoding="utf-8")
    assert f"type: {BEYOND_GLUE[task].hub}" in card
    capsys.readouterr()
    report.run([str(tmp_path), "--format", "csv"])
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    own = dict(zip(table[0].split(","), table[-1].split(","), strict=True))
    percent = "/".join(f"{100 * record['metrics'][name]:.2f}" for name in BEYOND_GLUE[task].metrics)
    assert {name: cell.rstrip("†") for name, cell in own.items() if name in BEYOND_GLUE} == {
        name: percent if name == task else "" for name in BEYOND_GLUE
    }


def test_the_protocols_have_the_settings_of_the_paper() -> None:
    (stage,) = load_protocol(ROOT / "configs" / "protocols" / "beyond_glue.yaml").stages.values()
    shared = stage.settings
    found = {
        name: tuple((shared | plan.settings)[key] for key in ("model.lr", "data.batch_size", "trainer.max_epochs"))
        for name, plan in stage.tasks.items()
    }
    assert found == {"SQuAD": (5e-5, 32, 3), "SQuAD2": (5e-5, 48, 2), "SWAG": (2e-5, 16, 3), "CoNLL": (3e-5, 16, 3)}
    (grid,) = load_protocol(ROOT / "configs" / "protocols" / "conll.yaml").stages.values()
    assert {name: len(values) for name, values in grid.grid.items()} == {
        "data.batch_size": 2,
        "model.lr": 3,
        "trainer.max_epochs": 3,
    }


@pytest.mark.realdata
def test_a_sparse_encoder_answers_real_questions_and_keeps_its_zeros(realdata: Path, tmp_path: Path) -> None:
    """Half of a real encoder's weights off, found by their zeros; then a file of answers that the official evaluation takes."""
    path, cache = packaged_minilm(), str(tmp_path / "cache")
    content = json.loads((realdata / "squad" / "xquad-en-dev.json").read_text(encoding="utf-8"))
    content["data"] = content["data"][:1]
    (tmp_path / "dev.json").write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(realdata / "squad" / "train-subset-v1.1.json", tmp_path / "train.json")
    questions = {qa["id"] for article in content["data"] for each in article["paragraphs"] for qa in each["qas"]}

    def data() -> TaskDataModule:
        return TaskDataModule(
            "SQuAD", str(tmp_path), tokenizer=path, length=192, stride=64, batch_size=8, train_examples=16, cache_dir=cache
        )

    masks = StaticSparsity(sparsity=0.5, initialization="magnitude")
    sparse = fit(tmp_path, data(), [masks], -1, module=TaskModel(path, lr=5e-5), max_epochs=1)
    sparse.lightning_module.model.base_model.save_pretrained(tmp_path / "half")
    encoder = AutoModel.from_pretrained(tmp_path / "half", add_pooling_layer=False)
    matrices = {
        n: w for n, w in copies(dict(encoder.named_parameters())).items() if n.startswith("encoder.") and w.dim() == 2
    }
    zeros, size = (sum(int(f(w)) for w in matrices.values()) for f in (lambda w: (w == 0).sum(), torch.numel))
    assert zeros == size // 2
    trainer = fit(tmp_path, data(), [], -1, module=TaskModel(str(tmp_path / "half"), lr=5e-5), max_epochs=1)
    for name, weight in matrices.items():
        assert torch.equal(parameters(trainer)[f"bert.{name}"] == 0, weight == 0), name
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    writer = PredictionFiles(str(tmp_path / "answers"))
    tiny_trainer(tmp_path, [writer], 1).predict(
        TaskModel(path), data(), return_predictions=False, ckpt_path=tmp_path / "run.ckpt"
    )
    answers = json.loads((tmp_path / "answers" / "predictions.json").read_text(encoding="utf-8"))
    assert answers.keys() == questions
    assert all(answers.values())
