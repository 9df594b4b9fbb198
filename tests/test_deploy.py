"""Real Hugging Face models through save_pretrained, pack, unpack and from_pretrained; sparse and dense outputs; the commands."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

import cpu
import deploy
from deployment import inference
from deployment.compressed import FORMAT, WEIGHTS_FILE
from deployment.inference import SparseLinear, sparsify_linears_
from kernels import kernels_given_back
from sparsity import MaskSet, load_masks, save_masks
from sparsity.files import read_safetensors

COMMON = {"vocab_size": 97, "max_position_embeddings": 64}
FAMILIES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


@pytest.fixture(params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path: Path, tokenizer_dir: Path) -> Path:
    """A model with random masks at 20 % over all its matrices, one grown weight at 0.0 in each, and a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **COMMON, **FAMILIES[request.param])
    model = AutoModelForMaskedLM.from_config(config)
    parameters = dict(model.named_parameters())
    masks = MaskSet({name: torch.rand(weight.shape) < 0.2 for name, weight in parameters.items() if weight.ndim == 2})
    masks.zero_weights_(parameters)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name][tuple(mask.nonzero()[0])] = 0.0
    model.save_pretrained(tmp_path / "export")
    save_masks(tmp_path / "export", masks, parameters, {"method": "random"})
    for path in tokenizer_dir.iterdir():
        (tmp_path / "export" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "export"


def load(directory: Path) -> PreTrainedModel:
    return AutoModelForMaskedLM.from_pretrained(directory).eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(0))


def test_a_model_comes_back_bit_for_bit(exported: Path, tmp_path: Path) -> None:
    deploy.main(["pack", str(exported), str(tmp_path / "packed")])
    deploy.main(["unpack", str(tmp_path / "packed"), str(tmp_path / "copy")])
    before, after = load(exported), load(tmp_path / "copy")
    assert type(after) is type(before)
    assert after.config.to_dict() | {"_name_or_path": ""} == before.config.to_dict() | {"_name_or_path": ""}
    assert after.state_dict().keys() == before.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert after.get_output_embeddings().weight is after.get_input_embeddings().weight
    assert torch.equal(after(tokens(2, 16)).logits, before(tokens(2, 16)).logits)
    masks, copied = load_masks(exported), load_masks(tmp_path / "copy")
    assert masks is not None
    assert copied is not None
    assert list(copied) == list(masks)
    assert all(torch.equal(copied[name], masks[name]) for name in masks)
    assert not torch.equal(MaskSet.from_zeros(dict(after.named_parameters()))[next(iter(masks))], next(iter(masks.values())))


def test_tied_weights_are_stored_once(exported: Path, tmp_path: Path) -> None:
    deploy.main(["pack", str(exported), str(tmp_path / "packed")])
    dense, _ = read_safetensors(exported / WEIGHTS_FILE)
    stored, _ = read_safetensors(tmp_path / "packed")
    tensors = {name.split("/")[0] for name in stored if not name.startswith("files/")}
    assert tensors == dense.keys()
    assert sum(tensor.shape == (97, 32) for tensor in dense.values()) == 1


def test_a_sparse_model_computes_what_the_dense_one_does(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "measured_speedup", lambda pairs, tokens, transposed: 2.0)
    dense, sparse = load(exported), load(exported)
    choices = sparsify_linears_(sparse)
    matrices = {name for name, module in dense.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name, module in sparse.named_modules() if isinstance(module, SparseLinear)} == matrices
    assert choices.keys() == matrices
    attention = torch.ones(3, 21, dtype=torch.long)
    attention[1, 9:] = 0
    with torch.inference_mode():
        for mask in (None, attention):
            expected = dense(tokens(3, 21), attention_mask=mask).logits
            torch.testing.assert_close(sparse(tokens(3, 21), attention_mask=mask).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("exported", ["bert"], indirect=True)
def test_the_latency_command_compares_both(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy.main(["latency", str(exported), "--batch", "2", "--length", "16", "--repetitions", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert f"of 14 linear layers are sparse in torch; dense products by {cpu.matmul_library()}" in printed
    assert "2 × 16 tokens, median of 2, interleaved" in printed
    rows = {line[:20].strip(): line[20:].split() for line in printed.splitlines()[3:-1]}
    assert {"torch dense", "torch sparse", "torch bf16"} <= rows.keys()
    assert all(len(cells) == 4 and float(cells[1]) > 0 and cells[0] == "1" for cells in rows.values())
    assert float(rows["torch sparse"][3]) < 1e-5
    assert rows["torch dense"][2:] == ["1.00", "0.0e+00"]
    assert printed.splitlines()[-1].startswith("fastest on this machine")


@pytest.mark.parametrize("exported", ["bert"], indirect=True)
def test_pack_says_how_small_it_is(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exported / "code.py").touch()
    deploy.main(["pack", str(exported), str(tmp_path / "packed")])
    captured = capsys.readouterr()
    assert f"{(tmp_path / 'packed').stat().st_size:,} bytes" in captured.out
    assert captured.err == "not carried: code.py\n"


@pytest.mark.parametrize("exported", ["bert"], indirect=True)
def test_an_older_packed_file_is_said_to_have_no_checksum(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.main(["pack", str(exported), str(tmp_path / "packed")])
    deploy.main(["unpack", str(tmp_path / "packed"), str(tmp_path / "copy")])
    assert capsys.readouterr().err == ""
    stored, metadata = read_safetensors(tmp_path / "packed")
    header = json.loads(metadata[FORMAT]) | {"version": 1}
    del header["sha256"]
    save_file(stored, tmp_path / "packed", {FORMAT: json.dumps(header)})
    deploy.main(["unpack", str(tmp_path / "packed"), str(tmp_path / "other")])
    line = f"{tmp_path / 'packed'} has no checksum, as it is of version 1 of the format: pack the model again\n"
    assert capsys.readouterr().err == line
    assert load_masks(tmp_path / "other") is not None


@pytest.mark.parametrize("exported", ["bert"], indirect=True)
@pytest.mark.parametrize(("switch", "library"), [("1", "oneDNN"), ("0", "MKL")])
def test_the_latency_command_has_the_products_that_are_asked_for(
    exported: Path, switch: str, library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cpu.SWITCH, switch)
    with kernels_given_back():
        deploy.main(["latency", str(exported), "--length", "16", "--repetitions", "1", "--threads", "1"])
    assert f"dense products by {library}" in capsys.readouterr().out
