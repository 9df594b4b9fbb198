"""Validation is what a plain Hugging Face model gives on the same text; the optimizer decays matrices only."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from callbacks import ExportPretrained, FinalTest, RigL
from datamodules import TextDataModule
from datamodules.masking import Masking
from datamodules.tokenizers import SPECIAL_TOKENS
from helpers import CONFIG, Recorder, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import MaskedLanguageModel

Data = Callable[..., TextDataModule]
NAMES = ("loss", "perplexity", "loss_per_word", "loss_per_character", "unigram_loss")


@torch.no_grad()
def summed_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[float, int]:
    """Summed cross-entropy and count of labels of the model's own all-positions loss."""
    labels = torch.full_like(batch["input_ids"], -100).scatter(1, batch["positions"], batch["labels"])
    count = int((labels != -100).sum())
    return model(input_ids=batch["input_ids"], labels=labels).loss.double().item() * count, count


@pytest.mark.parametrize("eval_batch_size", [1, 7, 64])
def test_validation_is_weighted_by_tokens_over_the_whole_set(tmp_path: Path, text_data: Data, eval_batch_size: int) -> None:
    data = text_data(eval_batch_size=eval_batch_size, length=29)
    trainer = fit(tmp_path, data, [], max_steps=3, limit_val_batches=1.0)
    metrics = trainer.callback_metrics
    model = trainer.lightning_module.model.eval()
    dataset = data.val_dataloader().dataset
    sums = [summed_loss(model, dataset[index]) for index in range(len(dataset))]
    assert len(dataset) % 7 != 0  # the last batch is a small one
    loss = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    assert float(metrics["val/loss"]) == pytest.approx(loss, abs=1e-5)
    assert float(metrics["val/perplexity"]) == pytest.approx(math.exp(loss), rel=1e-5)

    tokens = data.corpus.train.tokens
    vocabulary = len(data.tokenizer)
    share = (np.bincount(tokens, minlength=vocabulary) + 1) / (len(tokens) + vocabulary)
    labels = np.concatenate([dataset[index]["labels"].numpy().ravel() for index in range(len(dataset))])
    assert float(metrics["val/unigram_loss"]) == pytest.approx(-np.log(share[labels]).mean(), abs=1e-5)


@torch.no_grad()
def test_a_validation_in_half_precision_is_summed_in_double(tmp_path: Path, text_data: Data) -> None:
    """A sum in bfloat16 stops growing at 256 times its summands; the logits are the model's, in bfloat16."""
    data = text_data(length=29)
    trainer = fit(tmp_path, data, [], max_steps=2, limit_val_batches=1.0, precision="bf16-true")
    module = trainer.lightning_module.eval()
    assert {weight.dtype for weight in parameters(trainer).values()} == {torch.bfloat16}
    loss, count = 0.0, 0
    for batch in data.val_dataloader():
        logits, labels = module.predict_logits(module.model, batch).double(), batch["labels"].flatten()
        loss -= float(logits.log_softmax(-1)[range(len(labels)), labels].sum())
        count += len(labels)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(loss / count, rel=1e-6)
    labels = torch.cat([batch["labels"].flatten() for batch in data.val_dataloader()])
    floor = -float(data.unigram_log_probabilities[labels].mean())
    assert float(trainer.callback_metrics["val/unigram_loss"]) == pytest.approx(floor, rel=1e-6)


def test_validation_does_not_depend_on_training_settings(tmp_path: Path, text_data: Data) -> None:
    """Neither on the seed nor on how training is masked."""
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    losses = [
        tiny_trainer(tmp_path, [], 1, limit_val_batches=1.0).validate(
            tiny_bert(config=None, pretrained=str(tmp_path / "export")), text_data(**options), verbose=False
        )
        for options in ({}, {"seed": 5, "masking": Masking(rate=0.4, mask_share=0.5)}, {"eval_batch_size": 3})
    ]
    assert losses[0][0].keys() == {f"val/{name}" for name in NAMES}
    assert losses[1] == losses[0]
    assert losses[2][0] == pytest.approx(losses[0][0], rel=1e-6)


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_an_exported_directory_scores_the_losses_of_its_run(tmp_path: Path, text_data: Data, subcommand: str) -> None:
    callbacks = [RigL(every=2), FinalTest(), ExportPretrained()]
    options = {"test_share": 0.2}
    trainer = fit(tmp_path, text_data(**options), callbacks, 6, tiny_bert(dropout=0.1), limit_val_batches=1.0)
    export = str(tmp_path / "export")
    again = tiny_trainer(tmp_path, [], 1, limit_val_batches=1.0)
    module = tiny_bert(config=None, pretrained=export)
    data = text_data(tokenizer=export, eval_batch_size=5, **options)
    (metrics,) = getattr(again, subcommand)(module, data, verbose=False)
    prefix = subcommand.removesuffix("idate")
    assert metrics.keys() == {f"{prefix}/{name}" for name in NAMES}
    for name, value in metrics.items():
        assert value == pytest.approx(float(trainer.callback_metrics[name]), rel=1e-5)


def test_a_text_of_its_own_is_scored_as_a_whole_by_any_model(tmp_path: Path, text_data: Data, encoder_dir: Path) -> None:
    """Token frequencies of the training text, which is not read, are not there to compare with."""
    (file := tmp_path / "dev.txt").write_text("the students learn and forget.\n" * 40)
    data = text_data(path="nowhere.txt", validation_path=str(file), eval_batch_size=3)
    module = tiny_bert(config=None, pretrained=str(encoder_dir))
    (metrics,) = tiny_trainer(tmp_path, [], 1, limit_val_batches=1.0).validate(module, data, verbose=False)
    model = AutoModelForMaskedLM.from_pretrained(encoder_dir).eval()
    sums = [summed_loss(model, batch) for batch in data.val_dataloader()]
    loss = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    tokens = 40 * len(data.tokenizer("the students learn and forget.", add_special_tokens=False).input_ids)
    assert tokens + 1 == len(data.splits["validation"].tokens)
    assert metrics == {
        "val/loss": pytest.approx(loss, rel=1e-6),
        "val/perplexity": pytest.approx(math.exp(loss), rel=1e-5),
        "val/loss_per_word": pytest.approx(loss * tokens / (40 * 5), rel=1e-6),
        "val/loss_per_character": pytest.approx(loss * tokens / (40 * 30), rel=1e-6),
    }


def vocabulary_file(directory: Path, *entries: str) -> str:
    file = directory / "vocab.txt"
    file.write_text("\n".join([*SPECIAL_TOKENS, *entries, *(f"[unused{number}]" for number in range(40))]) + "\n")
    return str(file)


@pytest.mark.parametrize("eval_sequences", [None, 3])
def test_vocabularies_compare_by_words_and_characters(tmp_path: Path, text_data: Data, eval_sequences: int | None) -> None:
    """A model that knows nothing but the size of its vocabulary, on words that are one, two or three tokens."""
    (file := tmp_path / "text.txt").write_text("été été\nété\n\n" * 30)  # 3 words and 10 characters a document
    for entries in (["été"], ["é", "##té"], ["é", "##t", "##é"]):
        path = vocabulary_file(tmp_path, "A", *entries)  # a capital, or accents would go
        module = tiny_bert()
        data = text_data(path="nowhere.txt", tokenizer=path, test_path=str(file), eval_sequences=eval_sequences)
        trainer = tiny_trainer(tmp_path, [NothingLearnt()], 1)
        (metrics,) = trainer.test(module, data, verbose=False)
        surprise = math.log(len(data.tokenizer))
        assert metrics["test/loss"] == pytest.approx(surprise, rel=1e-6)
        assert metrics["test/loss_per_word"] == pytest.approx(len(entries) * surprise, rel=1e-6)
        assert metrics["test/loss_per_character"] == pytest.approx(len(entries) * surprise * 3 / 10, rel=1e-6)


class NothingLearnt(Callback):
    """Gives every token the same probability."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.model.cls.parameters():
                parameter.zero_()


def test_training_goes_on_in_train_mode_after_validation(tmp_path: Path, text_data: Data) -> None:
    """Dropout is on in every training step, also from a pretrained directory (which transformers loads in eval mode)."""
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1, module=tiny_bert(dropout=0.5))
    module = tiny_bert(config=None, pretrained=str(tmp_path / "export"))
    fit(tmp_path, text_data(), [Recorder()], max_steps=4, module=module, val_check_interval=2, limit_val_batches=1)
    assert all(part.training for part in module.model.modules())


def test_weight_decay_is_for_matrices_only(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(tmp_path, text_data(), [], max_steps=1, module=tiny_bert(weight_decay=0.3))
    names = {id(parameter): name for name, parameter in parameters(trainer).items()}
    groups = trainer.optimizers[0].param_groups
    decayed, plain = ({names[id(parameter)] for parameter in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert plain == {name for name in names.values() if name.endswith("bias") or "LayerNorm" in name}
    assert decayed | plain == set(names.values())


def test_one_step_is_that_of_adamw_on_the_full_loss(tmp_path: Path, text_data: Data) -> None:
    """The same model in a bare loop: Hugging Face's loss, clipping, torch's AdamW."""
    start: dict[str, dict[str, Tensor]] = {}
    module = tiny_bert()

    class Start(Recorder):
        def on_train_start(self, *_: object) -> None:
            start.update(copies(dict(module.model.named_parameters())))

    trainer = fit(tmp_path, text_data(), [Start()], max_steps=1, module=module, gradient_clip_val=1.0)
    bare = BertForMaskedLM(module.model.config)
    bare.load_state_dict(start, strict=False)
    batch = next(iter(trainer.datamodule.train_dataloader()))
    labels = torch.full_like(batch["input_ids"], -100).scatter(1, batch["positions"], batch["labels"])
    bare(input_ids=batch["input_ids"], labels=labels).loss.backward()
    nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
    matrices = [parameter for parameter in bare.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in bare.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8).step()
    torch.testing.assert_close(dict(bare.named_parameters()), parameters(trainer), rtol=0, atol=1e-4)


def test_a_checkpoint_loads_outside_a_trainer(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(tmp_path, text_data(), [], max_steps=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    loaded = MaskedLanguageModel.load_from_checkpoint(tmp_path / "run.ckpt")
    assert_identical(copies(dict(loaded.model.named_parameters())), copies(parameters(trainer)))


def test_a_config_may_pad_the_vocabulary_but_not_cut_it(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(tmp_path, text_data(), [], max_steps=1, module=tiny_bert(config=CONFIG | {"vocab_size": 128}))
    assert trainer.lightning_module.model.get_input_embeddings().weight.shape == (128, 32)
    with pytest.raises(ValueError, match="the tokenizer has 120 tokens, the model only 100"):
        fit(tmp_path, text_data(), [], max_steps=1, module=tiny_bert(config=CONFIG | {"vocab_size": 100}))


def test_a_sequence_longer_than_the_positions_is_an_error(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(length=32), [], max_steps=1)
    with pytest.raises(ValueError, match=r"data.length is 33, but the model has positions for 32 tokens only"):
        fit(tmp_path, text_data(length=33), [], max_steps=1)


def test_roberta_loses_the_positions_before_its_first(tmp_path: Path, text_data: Data) -> None:
    config = CONFIG | {"model_type": "roberta", "max_position_embeddings": 20}
    with pytest.raises(ValueError, match=r"data.length is 20, but the model has positions for 19 tokens only"):
        fit(tmp_path, text_data(length=20), [], max_steps=1, module=tiny_bert(config=config))
    fit(tmp_path, text_data(length=19), [], max_steps=1, module=tiny_bert(config=config))


@pytest.mark.parametrize(("model", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)])
def test_a_tokenizer_with_more_tokens_than_the_model_is_an_error(
    tmp_path: Path, text_data: Data, model: type[nn.Module], config: type
) -> None:
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    model(config(**fields, vocab_size=119)).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="the tokenizer has 120 tokens, .*small only 119"):
        fit(tmp_path, text_data(), [], max_steps=1, module=tiny_bert(config=None, pretrained=str(tmp_path / "small")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "give either model.config"),
        ({"pretrained": "somewhere"}, "give either model.config"),
        ({"lr": 0.0}, "lr > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
    ],
)
def test_bad_settings_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_bert(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": CONFIG | {"model_type": "gpt2"}}, "'gpt2' has no entry for its prediction head"),
        ({"config": None, "pretrained": "./nowhere"}, r"\./nowhere: no such file or directory, where a masked"),
    ],
)
def test_models_that_cannot_be_had_are_errors(
    tmp_path: Path, text_data: Data, options: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(tmp_path, text_data(), [], max_steps=1, module=tiny_bert(**options))


def test_an_original_hugging_face_model_has_a_perplexity(tmp_path: Path, text_data: Data) -> None:
    """A directory that this project did not write."""
    seed_everything(3)
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    data = text_data()
    BertForMaskedLM(BertConfig(**fields, vocab_size=128)).save_pretrained(tmp_path / "theirs")
    trainer = tiny_trainer(tmp_path, [], 1, limit_val_batches=1.0)
    module = tiny_bert(config=None, pretrained=str(tmp_path / "theirs"))
    (metrics,) = trainer.validate(module, data, verbose=False)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
    sums = [summed_loss(model, batch) for batch in data.val_dataloader()]
    expected = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    assert metrics["val/loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "modernbert"])
def test_special_tokens_of_the_config_are_the_tokenizers(tmp_path: Path, text_data: Data, model_type: str) -> None:
    sizes = {"bert": CONFIG, "roberta": CONFIG | {"max_position_embeddings": 40}, "modernbert": CONFIG}
    sizes["distilbert"] = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    module = tiny_bert(config=sizes[model_type] | {"model_type": model_type})
    data = text_data()
    fit(tmp_path, data, [], max_steps=1, module=module)
    config, tokenizer = module.model.config, data.tokenizer
    assert (config.vocab_size, config.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)
    wanted = {"cls": tokenizer.cls_token_id, "bos": tokenizer.cls_token_id}
    wanted |= {"sep": tokenizer.sep_token_id, "eos": tokenizer.sep_token_id}
    given = {name: getattr(config, f"{name}_token_id", None) for name in wanted}
    assert all(given[name] in (None, wanted[name]) for name in wanted)


def test_a_file_of_half_precision_is_trained_in_single(tmp_path: Path, text_data: Data) -> None:
    fit(tmp_path, text_data(), [ExportPretrained()], max_steps=1)
    AutoModelForMaskedLM.from_pretrained(tmp_path / "export").half().save_pretrained(tmp_path / "half")
    trainer = fit(tmp_path, text_data(), [], max_steps=1, module=MaskedLanguageModel(pretrained=str(tmp_path / "half")))
    assert {weight.dtype for weight in parameters(trainer).values()} == {torch.float32}
