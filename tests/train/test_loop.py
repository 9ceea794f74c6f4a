"""The loop: a recorded loss curve, the same result twice, budgets, signals, a loss that is no number."""

import math
import os
import signal
import threading

import pytest
import torch

from userclue.errors import Interrupted, UsageError
from userclue.native import describe, kernels
from userclue.train.loop import device_of, seeded_generator

# Of `make(steps=12, lr=0.003)`, recorded 2026-11-23; in float64 the torch curve differs from it by less than 2e-7. The compiled
# kernels draw other masks, hence a curve of their own.
GOLDEN = {
    "torch": [
        -0.089626, -0.110022, -0.064535, -0.051467, -0.085604, -0.125954,
        -0.021004, -0.034237, -0.123716, -0.052256, -0.039869, -0.037220,
    ],
    "native": [
        0.030277, -0.000640, -0.047681, -0.033650, -0.003271, -0.137177,
        -0.021565, -0.067154, -0.110911, -0.083653, -0.150681, -0.053960,
    ],
}  # fmt: skip


def losses(training) -> list[float]:
    return [row["loss"] for row in training.journal.rows]


@pytest.mark.parametrize("form", ["torch", "native"])
def test_loss_curve_is_the_recorded_one(make, monkeypatch, form):
    monkeypatch.setenv("USERCLUE_KERNELS", "off" if form == "torch" else "on")
    if form == "native" and kernels() is None:
        pytest.skip(describe())
    training = make(steps=12, lr=0.003)
    training.run()
    assert losses(training) == pytest.approx(GOLDEN[form], abs=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_same_seed_twice_gives_the_same_bits_another_seed_does_not(make, same, optimizer):
    first, second, other = (make(seed=seed, optimizer=optimizer) for seed in (3, 3, 4))
    for global_seed, training in enumerate((first, second, other)):
        torch.manual_seed(global_seed)
        training.run()
    same(first, second)
    assert losses(first) != losses(other)


def test_epochs_steps_and_rows(make):
    training = make(epochs=2, log_every=4)
    assert training.total_steps == 6
    progress = training.run()
    assert (progress.step, progress.epoch) == (6, 2)
    assert [(row["step"], row["epoch"]) for row in training.journal.rows] == [(1, 0), (4, 1), (6, 1)]
    row = training.journal.rows[-1]
    assert row.keys() == {
        "step", "epoch", "seconds", "loss", "gradient_norm", "users_per_second", "std_sqrt_d", "projection_rank", "alignment", "uniformity",
    }  # fmt: skip
    assert progress.seconds >= row["seconds"] > 0


def test_probe_adds_to_the_rows(make):
    training = make(steps=3, log_every=2)
    training.probe = lambda: {"effective_rank": 4.5}
    training.run()
    assert [row["effective_rank"] for row in training.journal.rows] == [4.5, 4.5, 4.5]


def test_budget_of_minutes_ends(make):
    training = make(minutes=0.002, schedule="cosine")
    assert training.total_steps is None
    progress = training.run()
    assert progress.seconds >= 0.12
    assert progress.step >= 1
    assert all(math.isfinite(loss) for loss in losses(training))


def test_end_of_epoch_is_told_and_may_stop(make):
    calls = []

    def end_of_epoch(epoch: int, step: int) -> bool:
        calls.append((epoch, step))
        return epoch == 1

    training = make(epochs=5, end_of_epoch=end_of_epoch)
    assert training.run().step == 6
    assert calls == [(0, 3), (1, 6)]


def test_end_of_epoch_comes_after_a_budget_of_steps_too(make):
    calls = []
    make(steps=4, end_of_epoch=lambda epoch, step: bool(calls.append((epoch, step)))).run()
    assert calls == [(0, 3), (1, 4)]


def test_gradients_are_clipped(make):
    free, clipped = make(), make(clip_norm=0.01)
    for training in (free, clipped):
        training.run()
    assert min(row["gradient_norm"] for row in free.journal.rows) > 0.02
    norms = []

    def measure(*_) -> None:
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in clipped.module.parameters()])))

    clipped = make(clip_norm=0.01)
    clipped.optimizer.register_step_pre_hook(measure)
    clipped.run()
    assert norms == pytest.approx([0.01] * 8, rel=1e-3)


def test_bfloat16_runs_and_keeps_the_weights_in_float32(make, monkeypatch):
    monkeypatch.setenv("USERCLUE_KERNELS", "off")  # they take float32 only, and would draw other masks
    exact, rough = make(), make(precision="bfloat16")
    for training in (exact, rough):
        training.run()
    assert all(parameter.dtype == torch.float32 for parameter in rough.module.parameters())
    assert losses(rough) == pytest.approx(losses(exact), abs=0.05)
    assert losses(rough) != losses(exact)


def test_bfloat16_leaves_batch_norms_and_loss_in_float32(make):
    training, types = make(precision="bfloat16", steps=2), []
    for layer in training.module.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.register_forward_hook(lambda _, inputs, output: types.append((inputs[0].dtype, output.dtype)))
    training.module.register_forward_hook(lambda _, inputs, step: types.append((torch.bfloat16, step.loss.dtype)))
    training.run()
    assert set(types) == {(torch.bfloat16, torch.float32)}


def test_tf32_is_allowed_during_the_run_alone(make):
    training, seen = make(precision="tf32", steps=2), []
    training.module.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    training.run()
    assert seen == ["high", "high"]
    assert torch.get_float32_matmul_precision() == "highest"
    assert all(parameter.dtype == torch.float32 for parameter in training.module.parameters())


@pytest.mark.parametrize("users", [2, 8, 9, 16, 17, 23])
def test_batch_norm_never_meets_one_user(make, users):
    training = make(users=users, epochs=2)
    sizes = []
    training.module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    training.run()
    assert sum(sizes) == 2 * users
    assert min(sizes) >= 2


def spoil(training, at: int, how) -> None:
    """Before step number `at` + 1, do `how` to the module."""
    training.module.register_forward_pre_hook(lambda *_: how(training.module) if training.progress.step == at else None)


def break_weights(module) -> None:
    with torch.no_grad():
        module.encoder.embedding.positions.weight.fill_(math.nan)


@pytest.mark.parametrize("log_every", [1, 1000])
def test_nan_stops_the_run_and_the_last_good_checkpoint_stays(make, tmp_path, same, log_every):
    training = make(target=tmp_path / "model", log_every=log_every)
    spoil(training, 5, break_weights)
    with pytest.raises(UsageError, match=r"step 6: .*lower lr or set clip_norm; the last good checkpoint is kept"):
        training.run()
    assert [path.name for path in sorted((tmp_path / "model" / "checkpoint").iterdir())] == ["step-000000004", "step-000000005"]
    resumed, whole = make(target=tmp_path / "model", log_every=log_every), make(log_every=log_every)
    resumed.resume()
    resumed.run()
    whole.run()
    same(resumed, whole)


def test_nan_between_logged_rows_is_seen_at_the_next_one(make):
    training = make(log_every=7)
    spoil(training, 4, break_weights)
    with pytest.raises(UsageError, match=r"step 7: the loss is nan; lower lr or set clip_norm$"):
        training.run()


def test_gradients_without_a_value_stop_the_run_though_the_loss_has_one(make):
    training = make(steps=4)
    weight = training.module.projector[0].weight
    weight.register_hook(lambda gradient: gradient * math.nan if training.progress.step == 3 else gradient)
    with pytest.raises(UsageError, match="step 4: the weights are no longer numbers"):
        training.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_bit_equal(make, tmp_path, same, number):
    target, handlers = tmp_path / "model", [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    training = make(target=target, checkpoint_seconds=1e6)
    spoil(training, 4, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=rf"stopped by {number.name} at step 5; state saved, go on with --resume"):
        training.run()
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed, whole = make(target=target), make()
    resumed.resume()
    assert resumed.progress.step == 5
    resumed.run()
    whole.run()
    same(resumed, whole)


def test_a_signal_without_checkpoints_says_that_nothing_was_written(make):
    training = make()
    spoil(training, 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM at step 3; nothing was written"):
        training.run()


def test_training_works_outside_the_main_thread(make, same):
    threaded, plain = make(), make()
    thread = threading.Thread(target=threaded.run)
    thread.start()
    thread.join()
    plain.run()
    same(threaded, plain)


def test_devices():
    assert device_of("cpu").type == "cpu"
    with pytest.raises(UsageError, match="unknown device abacus; use auto, cpu or cuda"):
        device_of("abacus")
    if not torch.cuda.is_available():
        assert device_of("auto").type == "cpu"
        with pytest.raises(UsageError, match="use --device cpu"):
            device_of("cuda")


def test_each_step_has_a_generator_of_its_own():
    keys = [(0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)]
    seeds = {seeded_generator(torch.device("cpu"), *key).initial_seed() for key in keys}
    assert len(seeds) == len(keys)
    assert seeded_generator(torch.device("cpu"), 1, 2).initial_seed() == seeded_generator(torch.device("cpu"), 1, 2).initial_seed()


def test_a_part_that_follows_is_told_how_far_the_run_is_before_each_step(make):
    training = make(objective="byol", steps=4)
    told = []
    training.module.follow = lambda progress: told.append((progress, training.progress.step))
    training.run()
    assert told == [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3)]
