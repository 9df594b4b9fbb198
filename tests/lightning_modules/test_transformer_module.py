"""What both modules share: the learning rate that is left open, the record of their arguments, one checkpoint format, loading."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from callbacks import ExportPretrained, KnowledgeDistillation, LinearWarmupDecay, OneCycleLR
from datamodules import GLUEDataModule, TextDataModule
from helpers import CONFIG, Recorder, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from internals import attention
from lightning_modules import MaskedLanguageModel, SequenceClassifier

Text = Callable[..., TextDataModule]
Glue = Callable[..., GLUEDataModule]


@pytest.mark.parametrize("kind", ["text", "glue"])
@pytest.mark.parametrize("lr", [None, 5e-4])
def test_a_learning_rate_that_is_left_open_is_the_default_or_the_schedules(
    tmp_path: Path, text_data: Text, glue_data: Glue, encoder_dir: Path, kind: str, lr: float | None
) -> None:
    def rates(*schedules: LinearWarmupDecay | OneCycleLR) -> list[float]:
        recorder = Recorder()
        text = kind == "text"
        module = MaskedLanguageModel(CONFIG, lr=lr) if text else SequenceClassifier(str(encoder_dir), lr=lr)
        fit(tmp_path, text_data() if text else glue_data("RTE"), [recorder, *schedules], 4, module=module)
        assert module.hparams["lr"] == lr
        return recorder.rates

    peak = lr or {"text": 1e-3, "glue": 2e-5}[kind]
    assert rates() == [peak] * 4
    assert rates(LinearWarmupDecay(1)) == pytest.approx([0.0, peak, peak * 2 / 3, peak / 3])
    assert max(rates(OneCycleLR(pct_start=0.5))) == pytest.approx(peak)
    if lr is None:
        assert max(rates(OneCycleLR(max_lr=7e-3, pct_start=0.5))) == pytest.approx(7e-3)


@pytest.mark.parametrize("lr", [0.0, -1e-3])
def test_a_learning_rate_of_zero_or_less_is_an_error(lr: float) -> None:
    for build in (lambda: MaskedLanguageModel(CONFIG, lr=lr), lambda: SequenceClassifier("somewhere", lr=lr)):
        with pytest.raises(ValueError, match=f"lr > 0 and weight_decay >= 0 expected, got {lr} and 0.0"):
            build()


COMMON = {"pretrained", "lr", "weight_decay", "betas", "eps", "keep_sparsity", "compile_encoder"}
CLASSIFIER = {"layer_decay", "reinitialize_layers", "dropout"}


def test_a_checkpoint_records_the_arguments_and_the_weights_and_nothing_else(
    tmp_path: Path, text_data: Text, glue_data: Glue, encoder_dir: Path
) -> None:
    runs: list[tuple[LightningModule, TextDataModule | GLUEDataModule, set[str]]] = [
        (tiny_bert(), text_data(), COMMON | {"config"}),
        (SequenceClassifier(str(encoder_dir)), glue_data("MNLI"), COMMON | CLASSIFIER),
    ]
    for module, data, arguments in runs:
        trainer = fit(tmp_path, data, [], 1, module=module, limit_val_batches=1)
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
        assert set(checkpoint["hyper_parameters"]) == arguments
        assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in module.model.state_dict()}
        assert checkpoint["model_config"] == module.model.config.to_dict()
        loaded = type(module).load_from_checkpoint(tmp_path / "run.ckpt")
        assert_identical(copies(dict(loaded.model.named_parameters())), copies(parameters(trainer)))


@pytest.mark.parametrize(
    ("processor", "precision", "fields", "expected"),
    [
        ("AuthenticAMD", "bf16-mixed", {}, "eager"),
        ("AuthenticAMD", "bf16-true", {}, "eager"),
        ("AuthenticAMD", "32-true", {}, "sdpa"),
        ("AuthenticAMD", "bf16-mixed", {"attn_implementation": "sdpa"}, "sdpa"),
        ("GenuineIntel", "bf16-mixed", {}, "sdpa"),
    ],
)
def test_attention_in_bf16_is_the_fastest_of_the_processor(
    tmp_path: Path,
    text_data: Text,
    encoder_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    processor: str,
    precision: str,
    fields: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.setattr("cpu._processor", lambda: f"vendor_id : {processor}")
    module, teaching = tiny_bert(config=CONFIG | fields), KnowledgeDistillation(str(encoder_dir))
    seen: list[str] = []

    class See(Recorder):
        def on_train_start(self, *_: object) -> None:
            seen.extend(attention(model) for model in (module.model, *teaching.teachers))

    fit(tmp_path, text_data(), [teaching, See(), ExportPretrained()], 1, module=module, precision=precision)
    assert seen == [expected] * 2
    assert "attn_implementation" not in (tmp_path / "export" / "config.json").read_text()


@pytest.fixture
def bare(tmp_path: Path, tokenizer_dir: Path) -> str:
    """A saved encoder without a head."""
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    BertModel(BertConfig(**fields, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    return str(tmp_path / "bare")


def test_an_encoder_without_its_head_has_no_perplexity_and_teaches_nobody(
    tmp_path: Path, text_data: Text, bare: str
) -> None:
    module = MaskedLanguageModel(pretrained=bare)
    for stage in ("validate", "test"):
        with pytest.raises(ValueError, match=r"bare: no prediction head there \(cls.predictions"):
            getattr(tiny_trainer(tmp_path, [], 1, limit_val_batches=1), stage)(module, text_data(test_share=0.1))
    with pytest.raises(ValueError, match=r"bare: no prediction head there \(cls.predictions"):
        fit(tmp_path, text_data(), [KnowledgeDistillation(bare)], 1)


def test_pretraining_may_go_on_from_an_encoder_without_its_head(tmp_path: Path, text_data: Text, bare: str) -> None:
    encoder = AutoModel.from_pretrained(bare).state_dict()

    class Start(Recorder):
        def on_train_start(self, *_: object) -> None:
            weights = module.model.bert.state_dict()
            assert_identical(copies(weights), {name: encoder[name] for name in weights})

    module = MaskedLanguageModel(pretrained=bare)
    with pytest.warns(UserWarning, match="bare: no prediction head there .*; it starts anew"):
        fit(tmp_path, text_data(), [Start(), ExportPretrained()], 1, module=module)
    tiny_trainer(tmp_path, [], 1, limit_val_batches=1).validate(
        MaskedLanguageModel(pretrained=str(tmp_path / "export")), text_data()
    )


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "modernbert"])
def test_an_export_of_any_family_is_whole(tmp_path: Path, text_data: Text, model_type: str) -> None:
    """Tied weights, which are in the file once, do not miss."""
    sizes = {"bert": CONFIG, "roberta": CONFIG | {"max_position_embeddings": 40}, "modernbert": CONFIG}
    sizes["distilbert"] = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    module = tiny_bert(config=sizes[model_type] | {"model_type": model_type})
    fit(tmp_path, text_data(), [ExportPretrained()], 1, module=module)
    again = MaskedLanguageModel(pretrained=str(tmp_path / "export"))
    tiny_trainer(tmp_path, [], 1, limit_val_batches=1).validate(again, text_data())
    assert again.unfit is None
    assert_identical(copies(dict(again.model.named_parameters())), copies(dict(module.model.named_parameters())))


def test_a_file_that_lacks_weights_of_the_encoder_is_one_line(tmp_path: Path, text_data: Text, bare: str) -> None:
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    BertForMaskedLM(BertConfig(**fields, vocab_size=120)).save_pretrained(bare)
    file = Path(bare) / "config.json"
    for change, count in (({"num_hidden_layers": 3}, 16), ({"intermediate_size": 80}, 6)):
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | change))
        with pytest.raises(
            ValueError, match=rf"bare: {count} tensors of the encoder are missing or of another shape, the fi"
        ):
            fit(tmp_path, text_data(), [], 1, module=MaskedLanguageModel(pretrained=bare))
        file.write_text(json.dumps(config))
    assert AutoModelForMaskedLM.from_pretrained(bare).config.num_hidden_layers == 2
    file.write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(ValueError, match="bare: no masked language model there: ") as error:
        fit(tmp_path, text_data(), [], 1, module=MaskedLanguageModel(pretrained=bare))
    assert "\n" not in str(error.value)
