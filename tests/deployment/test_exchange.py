"""ONNX and OpenVINO files compute what torch does, on real sentences, and keep every zero."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import AutoConfig

import deploy
from benchmarks.finetuning import packaged_minilm
from callbacks import ExportPretrained, RigL
from datamodules import TextDataModule, prose, train_tokenizer
from deployment import TOLERANCE, agreement, constants, exchange, export, kept_zeros, load, pack, session
from helpers import CONFIG, fit, tiny_bert

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
Model = tuple[PreTrainedModel, PreTrainedTokenizerBase]
MODERN = {
    **{"model_type": "modernbert", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"intermediate_size": 48, "local_attention": 8, "max_position_embeddings": 130},
}


def sparse(model: PreTrainedModel) -> PreTrainedModel:
    """Four fifths of the matrices of ``model`` at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(torch.rand(weight.shape, generator=generator) < 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """A hundred of very different lengths."""
    return prose(100)


@pytest.fixture(scope="module", params=["bert", "modernbert", "minilm"])
def model(request: pytest.FixtureRequest, sentences: list[str]) -> Model:
    torch.manual_seed(0)
    if request.param == "minilm":  # with the head that finetuning gives it
        classifier = AutoModelForSequenceClassification.from_pretrained(packaged_minilm(), num_labels=3)
        return sparse(classifier), AutoTokenizer.from_pretrained(packaged_minilm())
    tokenizer = train_tokenizer(lambda: iter(sentences), vocabulary_size=400)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    fields = MODERN | special if request.param == "modernbert" else CONFIG | {"max_position_embeddings": 130}
    config = AutoConfig.for_model(**fields, vocab_size=len(tokenizer))
    return sparse(AutoModelForMaskedLM.from_config(config)), tokenizer


def test_files_agree_with_torch_on_real_sentences(model: Model, sentences: list[str], tmp_path: Path) -> None:
    network, tokenizer = model
    plain = export(network, tmp_path, "onnx")
    converted = tmp_path / "model.xml"
    exchange.write_openvino(plain, converted)
    zeros = sum(int((weight == 0).sum()) for weight in network.parameters() if weight.ndim == 2)
    assert zeros > 0.7 * sum(weight.numel() for weight in network.parameters() if weight.ndim == 2)
    files: list[tuple[Path, exchange.Format]] = [(plain, "onnx"), (converted, "openvino")]
    for file, format in files:
        found = agreement(network, session(file, format, 1), tokenizer, sentences)
        assert found.sentences == 100
        assert found.difference < TOLERANCE
        assert found.same == 1.0
        assert kept_zeros(network, constants(file, format)) == zeros


@pytest.mark.realdata
def test_a_student_agrees_on_an_encyclopedia(realdata: Path, trained: Path, tmp_path: Path) -> None:
    lines = (realdata / "text/wikipedia/wiki_00.txt").read_text(encoding="utf-8").splitlines()
    student, tokenizer = load(trained)
    assert tokenizer is not None
    file = export(student, tmp_path, "onnx")
    found = agreement(student, session(file, "onnx", 1), tokenizer, [line for line in lines if line.strip()][:100])
    assert (found.sentences, found.same) == (100, 1.0)
    assert found.difference < TOLERANCE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_data: Callable[..., TextDataModule]) -> Path:
    """The export of a ModernBERT that was trained for some steps with RigL masks at 80 %."""
    module = tiny_bert(config=MODERN)
    root = tmp_path_factory.mktemp("trained")
    fit(root, text_data(), [RigL(every=4), ExportPretrained()], 12, module=module)
    return root / "export"


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_command_writes_and_checks_a_file(
    trained: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(trained), "--format", format, "--out", str(tmp_path), "--sentences", "20"]
    deploy.main(arguments)
    printed = capsys.readouterr().out.splitlines()
    zeros = sum(int((weight == 0).sum()) for weight in load(trained).model.parameters() if weight.ndim == 2)
    assert printed[1] == f"zeros: {zeros:,} in matrices of the model, all of them in the file"
    assert printed[2].startswith("20 sentences: largest difference from torch ")
    assert float(printed[2].split()[6].rstrip(",")) < TOLERANCE
    deploy.main([*arguments, "--int8"])  # again, in the same place
    matrices = [array for array in constants(tmp_path / exchange.FILES[format], format) if array.dtype == np.int8]
    assert len(matrices) >= 16  # four of each layer
    assert sum(int((array == 0).sum()) for array in matrices) >= zeros  # small weights have become zero, too


def test_zeros_that_were_lost_are_noticed() -> None:
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[0] = 0
    matrix = layer.weight.detach().numpy()
    assert kept_zeros(layer, [matrix.T]) == 4
    with pytest.raises(ValueError, match="weight: its 4 zeros are not in the file"):
        kept_zeros(layer, [np.where(matrix == 0, 1e-9, matrix)])


def test_what_is_not_installed_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"no_such_runtime is not installed: pip install 'trifecta\[onnx\]'"):
        exchange.extra("no_such_runtime", "onnx")


def test_a_signal_finds_its_stack_when_sessions_have_come_and_gone(tmp_path: Path) -> None:
    """In the order in which they came, which once left the process with an alternate signal stack in memory that was freed."""
    file = export(
        sparse(AutoModelForMaskedLM.from_config(AutoConfig.for_model(**CONFIG, vocab_size=90))), tmp_path, "openvino"
    )
    program = f"""
import faulthandler, os, signal
from pathlib import Path
from deployment.exchange import openvino_session
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("received"))
sessions = [openvino_session(Path({str(file)!r}), 1, precision) for precision in ("f32", "bf16")]
del sessions[0], sessions[0]
os.kill(os.getpid(), signal.SIGUSR1)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "received\n"), ended.stderr


@pytest.mark.parametrize("kind", [AutoModelForQuestionAnswering, AutoModelForMultipleChoice])
def test_an_answer_of_several_tensors_is_refused_in_one_line(kind: type, tmp_path: Path) -> None:
    model = kind.from_config(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match=f"{type(model).__name__} is not written for other runtimes"):
        exchange.export(model.eval(), tmp_path / "onnx", "onnx")


def test_a_packed_file_is_exported_beside_itself(trained: Path, tmp_path: Path) -> None:
    pack(trained, tmp_path / "model.packed")
    deploy.main(["export", str(tmp_path / "model.packed"), "--format", "onnx", "--sentences", "4"])
    assert (tmp_path / "model_onnx" / "model.onnx").is_file()
    with pytest.raises(ValueError, match="sentences must be at least 1"):
        deploy.main(["export", str(trained), "--format", "onnx", "--sentences", "0"])
