"""Sparse training through a real trainer: what happens to weights, gradients and optimizer state around each step."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from callbacks import SET, RandomState, RigL, SparseTraining, StaticSparsity
from datamodules import TextDataModule
from helpers import CONFIG, TinyBertWithMomentum, assert_identical, copies, fit, parameters, tiny_bert, tiny_trainer
from lightning_modules import MaskedLanguageModel
from sparsity import MaskSet, methods

Data = Callable[..., TextDataModule]
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


class Steps(Callback):
    """Around each optimizer step: weights, masks, dense gradients and state before; to come before the sparse callback."""

    def __init__(self, sparse: SparseTraining) -> None:
        self.sparse = sparse
        self.before: list[dict[str, dict[str, Tensor]]] = []
        self.after: list[dict[str, dict[str, Tensor]]] = []
        self.micro_batches = 0

    def snapshot(self, trainer: Trainer) -> dict[str, dict[str, Tensor]]:
        weights, optimizer = parameters(trainer), trainer.optimizers[0]
        state = {
            f"{name}/{key}": value
            for name, weight in weights.items()
            for key, value in optimizer.state.get(weight, {}).items()
            if value is not None
        }
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        parts = {"weights": weights, "state": state, "gradients": gradients, "masks": dict(self.sparse.masks)}
        return {part: copies(tensors) for part, tensors in parts.items()}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.before.append(self.snapshot(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.micro_batches += 1
        if trainer.global_step > len(self.after):
            self.after.append(self.snapshot(trainer))

    def updates(self) -> list[int]:
        """Optimizer steps at which a mask changed."""
        pairs = enumerate(zip(self.before, self.after, strict=True))
        return [step for step, (old, new) in pairs if any((old["masks"][n] != new["masks"][n]).any() for n in old["masks"])]


def expected_update(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
    """RigL's mask update (Evci et al. 2020, Alg. 1) by sorting."""
    weight, mask, gradient = weight.flatten().tolist(), mask.flatten().tolist(), gradient.flatten().tolist()
    active = sorted((index for index, on in enumerate(mask) if on), key=lambda index: abs(weight[index]))
    k = int(fraction * len(active))
    kept = set(active[k:])
    others = sorted(set(range(len(mask))) - kept, key=lambda index: -abs(gradient[index]))
    return torch.tensor([index in kept | set(others[:k]) for index in range(len(mask))])


@pytest.mark.parametrize("module", [tiny_bert, lambda: TinyBertWithMomentum(CONFIG)], ids=["adamw", "sgd"])
def test_off_weights_stay_exactly_zero_and_nnz_constant(
    tmp_path: Path, text_data: Data, module: Callable[[], MaskedLanguageModel]
) -> None:
    rigl = RigL(sparsity=0.8, every=3, stop=0.5)
    steps = Steps(rigl)
    fit(tmp_path, text_data(), [steps, rigl], max_steps=16, module=module())
    assert steps.updates() == [3, 6]
    for after in steps.after:
        for name, mask in after["masks"].items():
            weight = after["weights"][name]
            assert torch.equal(weight[~mask], torch.zeros_like(weight[~mask]))
            assert int(mask.sum()) == rigl.stepping.initial_nnz[name]
            moments = [after["state"][f"{name}/{key}"] for key in MOMENTS if f"{name}/{key}" in after["state"]]
            assert moments
            assert all(not moment[~mask].any() for moment in moments)
            assert not torch.equal(weight[mask], steps.before[0]["weights"][name][mask])


@pytest.mark.parametrize("module", [tiny_bert, lambda: TinyBertWithMomentum(CONFIG)], ids=["adamw", "sgd"])
def test_update_step_swaps_weights_and_leaves_all_else(
    tmp_path: Path, text_data: Data, module: Callable[[], MaskedLanguageModel]
) -> None:
    rigl = RigL(sparsity=0.5, every=4, drop_fraction=0.5, stop=1.0)
    steps = Steps(rigl)
    fit(tmp_path, text_data(), [steps, rigl], max_steps=7, module=module())
    old, new = steps.before[4], steps.after[4]
    fraction = 0.25 * (1 + math.cos(math.pi * 4 / 7))
    returned = 0
    for name, weight in old["weights"].items():
        was = old["masks"].get(name, torch.ones_like(weight, dtype=torch.bool))
        now = new["masks"].get(name, was)
        if name in old["masks"]:
            expected = expected_update(weight, was, old["gradients"][name], fraction)
            assert torch.equal(now.flatten(), expected)
            returned += int(fraction * int(was.sum())) - int((now & ~was).sum())
        changed = now ^ was
        for before, after in [(weight, new["weights"][name])] + [
            (old["state"][f"{name}/{key}"], new["state"][f"{name}/{key}"])
            for key in MOMENTS
            if f"{name}/{key}" in old["state"]
        ]:
            assert_identical(after, before.masked_fill(changed, 0.0))
    assert returned > 100  # just dropped and grown again: value and state are kept
    assert all(torch.equal(new["state"][key], count) for key, count in old["state"].items() if key.endswith("/step"))


def test_updates_come_at_optimizer_steps_strictly_inside_the_schedule(tmp_path: Path, text_data: Data) -> None:
    rigl = RigL(sparsity=0.8, every=3, stop=0.75)
    steps = Steps(rigl)
    fit(tmp_path, text_data(batch_size=4), [steps, rigl], max_steps=20, accumulate_grad_batches=2)
    assert (len(steps.before), steps.micro_batches) == (20, 40)
    assert steps.updates() == [3, 6, 9, 12]  # neither 0 nor 15 = 0.75 · 20

    for name in rigl.masks:
        ever = torch.stack([after["masks"][name] for after in steps.after]).any(0)
        assert torch.equal(rigl.stepping.explored[name], ever)
    explored = sum(int(mask.sum()) for mask in rigl.stepping.explored.values())
    assert rigl.stepping.last_update["explored"] == explored / sum(mask.numel() for mask in rigl.masks.values())


def test_accumulation_of_four_equals_a_batch_four_times_as_large(tmp_path: Path, text_data: Data) -> None:
    results = []
    for batch_size, accumulate in ((4, 4), (16, 1)):
        rigl = RigL(sparsity=0.8, every=2, stop=1.0)
        trainer = fit(
            tmp_path,
            text_data(batch_size=batch_size),
            [rigl],
            max_steps=11,
            accumulate_grad_batches=accumulate,
            precision="64-true",
        )
        results.append((dict(rigl.masks), rigl.stepping.last_update, copies(parameters(trainer))))
    (masks, update, weights), (other_masks, other_update, other_weights) = results
    assert_identical(masks, other_masks)
    assert update == other_update
    assert update["churn"] > 0
    torch.testing.assert_close(weights, other_weights, rtol=0, atol=1e-9)


def test_tied_embeddings_are_masked_once(tmp_path: Path, text_data: Data) -> None:
    rigl = RigL(sparsity=0.8, every=2, stop=1.0, targets=("*.encoder.*.weight", "*word_embeddings.weight"))
    trainer = fit(tmp_path, text_data(), [rigl], max_steps=5)
    model = trainer.lightning_module.model
    embedding, decoder = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding is decoder
    assert [name for name in rigl.masks if "encoder" not in name] == ["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(decoder != 0, rigl.masks["bert.embeddings.word_embeddings.weight"] & (decoder != 0))
    size = sum(mask.numel() for mask in rigl.masks.values())
    assert sum(rigl.masks.nnz().values()) == size - round(0.8 * size)


class ClippedNorms(MaskedLanguageModel):
    """Records the gradient norm that clipping sees."""

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.norms = [*getattr(self, "norms", []), torch.nn.utils.get_total_norm(gradients)]
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def test_clipping_sees_masked_gradients(tmp_path: Path, text_data: Data) -> None:
    static = StaticSparsity(sparsity=0.8, targets=("*.weight",))
    steps, module = Steps(static), ClippedNorms(CONFIG)
    fit(tmp_path, text_data(), [steps, static], max_steps=3, module=module, gradient_clip_val=0.1)
    for before, norm in zip(steps.before, module.norms, strict=True):
        gradients, masks = before["gradients"], before["masks"]
        masked = [gradient * masks.get(name, torch.ones(())) for name, gradient in gradients.items()]
        torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(masked))
        assert norm < 0.9 * torch.nn.utils.get_total_norm(gradients.values())


class Overflow(Callback):
    """An infinite gradient at a weight that is off, at one step."""

    def __init__(self, sparse: SparseTraining, step: int) -> None:
        self.sparse, self.step = sparse, step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.global_step == self.step:
            name, mask = next(iter(self.sparse.masks.items()))
            parameters(trainer)[name].grad.view(-1)[int((~mask).flatten().nonzero()[0])] = torch.inf


def test_random_masks_are_of_the_run_unless_they_have_a_seed_of_their_own(tmp_path: Path, text_data: Data) -> None:
    def masks(run: int, seed: int | None = None, **options: object) -> MaskSet:
        sparse = SET(seed=seed, every=1)
        fit(tmp_path, text_data(), [sparse, RandomState()], max_steps=2, seed=run, **options)
        return sparse.masks

    first, again, other = masks(0), masks(0), masks(1)
    assert_identical(dict(first), dict(again))
    assert any((first[name] != other[name]).any() for name in first)
    assert_identical({name: mask.sum() for name, mask in first.items()}, {name: mask.sum() for name, mask in other.items()})
    explicit = masks(1, seed=0)
    drawn = {name: (explicit[name] & first[name]).sum() / first[name].sum() for name in first}
    assert min(drawn.values()) > 0.6  # of the two updates alone some differ


def test_a_continued_run_draws_with_the_seed_it_began_with(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(tmp_path, text_data(), [SET(every=2)], max_steps=2, seed=3)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    continued = SET(every=2)
    fit(tmp_path, text_data(), [continued], max_steps=4, seed=4, ckpt_path=tmp_path / "two.ckpt")
    assert continued.method.seed == 3


def test_masks_that_would_never_move_are_worth_a_warning(tmp_path: Path, text_data: Data) -> None:
    with pytest.warns(UserWarning, match="RigL never changes its masks in 2 steps: give masks.every a smaller number"):
        fit(tmp_path, text_data(), [RigL(every=100)], max_steps=2)
    with warnings.catch_warnings(record=True) as said:
        fit(tmp_path, text_data(), [RigL(every=1, stop=1.0)], max_steps=2)
        fit(tmp_path, text_data(), [StaticSparsity()], max_steps=2)
    assert not [warning for warning in said if "never changes" in str(warning.message)]


def test_any_checkpoint_is_validated_whatever_masks_a_fit_would_have(tmp_path: Path, text_data: Data) -> None:
    trainer = fit(tmp_path, text_data(), [], max_steps=2, limit_val_batches=1)
    trainer.save_checkpoint(tmp_path / "dense.ckpt")
    validated = tiny_trainer(tmp_path, [RigL(every=2)], 2, limit_val_batches=1)
    ((scores),) = validated.validate(tiny_bert(), text_data(), ckpt_path=tmp_path / "dense.ckpt", verbose=False)
    assert scores["val/loss"] == pytest.approx(float(trainer.callback_metrics["val/loss"]), abs=1e-6)


def test_a_gradient_that_is_not_finite_skips_the_update(tmp_path: Path, text_data: Data) -> None:
    rigl = RigL(sparsity=0.8, every=2, stop=1.0)
    steps = Steps(rigl)
    with pytest.warns(UserWarning, match="step 4: a gradient is not finite; the mask update is skipped"):
        trainer = fit(tmp_path, text_data(), [Overflow(rigl, step=4), steps, rigl], max_steps=8)
    assert steps.updates() == [2, 6]
    assert all(bool(weight.isfinite().all()) for weight in parameters(trainer).values())


@pytest.mark.parametrize("distribution", ["uniform", "erdos_renyi"])
@pytest.mark.parametrize(("scope", "sparsity"), [("tensors", 0.8), ("encoder", 0.577), ("model", 0.5)])
def test_zeros_are_exact_to_one_weight_in_every_scope(
    tmp_path: Path, text_data: Data, scope: str, sparsity: float, distribution: str
) -> None:
    targets = ("*.intermediate.dense.weight", "*.output.dense.weight") if scope == "encoder" else ()
    static = StaticSparsity(sparsity=sparsity, scope=scope, distribution=distribution, targets=targets)
    trainer = fit(tmp_path, text_data(), [static], max_steps=1)
    model = trainer.lightning_module.model
    linear = [parameter for name, parameter in model.bert.encoder.named_parameters() if parameter.dim() == 2]
    scopes = {"tensors": linear, "encoder": linear, "model": list(model.parameters())}
    wanted = round(sparsity * sum(parameter.numel() for parameter in scopes[scope]))
    assert sum(int((weight == 0).sum()) for weight in linear) == wanted
    assert (
        sum(mask.numel() - nnz for mask, nnz in zip(static.masks.values(), static.masks.nnz().values(), strict=True))
        == wanted
    )


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5])
def test_sparsity_out_of_range_is_an_error(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        RigL(sparsity=sparsity)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([RigL(), StaticSparsity()], "two sparse-training callbacks"),
        ([RigL(targets=("*.conv.*",))], "matches no parameter"),
        ([RigL(sparsity=0.95, scope="model")], "closest feasible is sparsity 0.70257,"),
        ([RigL(scope="encoder", targets=("*.weight",))], "does not hold .*; state the sparsity of the model instead"),
    ],
)
def test_impossible_requests_are_errors(
    tmp_path: Path, text_data: Data, callbacks: list[SparseTraining], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, text_data(), callbacks, max_steps=1)


def test_checkpoint_restores_masks_with_grown_zeros(tmp_path: Path, text_data: Data) -> None:
    rigl = RigL(sparsity=0.8, every=4, stop=1.0)
    trainer = fit(tmp_path, text_data(), [rigl], max_steps=5)  # the last step is an update
    trainer.save_checkpoint(tmp_path / "update.ckpt")
    weights = parameters(trainer)
    inferred = MaskSet.from_zeros({name: weights[name] for name in rigl.masks})
    grown_zeros = sum(int((rigl.masks[name] & ~inferred[name]).sum()) for name in rigl.masks)
    assert grown_zeros > 0

    restored = RigL(sparsity=0.8, every=4, stop=1.0, seed=1)
    fit(tmp_path, text_data(), [restored], max_steps=5, ckpt_path=tmp_path / "update.ckpt", seed=1)
    assert_identical(dict(restored.masks), dict(rigl.masks))
    assert_identical(dict(restored.stepping.explored), dict(rigl.stepping.explored))
    assert restored.stepping.initial_nnz == rigl.stepping.initial_nnz
    assert restored.stepping.last_update == rigl.stepping.last_update


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], [RigL()], "the checkpoint has no masks: RigL cannot go on with it"),
        ([SET()], [RigL()], "the checkpoint has the masks of SET: RigL cannot go on with it"),
    ],
)
def test_fresh_masks_are_not_put_over_trained_weights(
    tmp_path: Path, text_data: Data, before: list[Callback], after: list[Callback], message: str
) -> None:
    fit(tmp_path, text_data(), before, max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, text_data(), after, max_steps=4, ckpt_path=tmp_path / "two.ckpt")


def test_a_method_goes_on_whether_it_came_by_its_callback_or_by_itself(tmp_path: Path, text_data: Data) -> None:
    whole = RigL(sparsity=0.5, every=2, stop=1.0)
    fit(tmp_path, text_data(), [whole, RandomState()], max_steps=6)
    saved = tmp_path / "three.ckpt"
    checkpoint = ModelCheckpoint(tmp_path, filename="three", every_n_train_steps=3)
    fit(
        tmp_path,
        text_data(),
        [RigL(sparsity=0.5, every=2, stop=1.0), RandomState(), checkpoint],
        6,
        enable_checkpointing=True,
    )
    resumed = SparseTraining(methods.RigL(sparsity=0.5, every=2, stop=1.0))
    fit(tmp_path, text_data(), [resumed, RandomState()], max_steps=6, ckpt_path=saved)
    assert_identical(dict(resumed.masks), dict(whole.masks))
