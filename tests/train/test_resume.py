"""Killed runs go on as if nothing had happened: the same bits, whatever the optimiser and wherever the kill falls."""

import json
import resource

import pytest
import torch

from userclue.errors import UsageError

# 23 users in batches of 8: epochs end after steps 3, 6 and 9.
SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "sgd", "schedule": "cosine", "lr": 0.05, "weight_decay": 1e-3},
        {"clip_norm": 0.1, "schedule": "cosine"},
        {"objective": "byol"},
    ],
    ids=["adam", "sgd-cosine", "adam-cosine-clipped", "moving-target"],
)


def whole(make, **settings):
    training = make(steps=8, **settings)
    training.run()
    return training


def killed_at(make, killed, target, step, **settings):
    training = make(steps=8, target=target, kill_at=step, **settings)
    with pytest.raises(killed):
        training.run()


def resumed(make, target, **settings):
    training = make(steps=8, target=target, **settings)
    training.resume()
    training.run()
    return training


@SETTINGS
@pytest.mark.parametrize("step", [1, 3, 5])
def test_resumed_equals_uninterrupted(make, killed, same, tmp_path, settings, step):
    killed_at(make, killed, tmp_path, step, **settings)
    training = resumed(make, tmp_path, **settings)
    assert training.checkpoints.warnings == []
    same(training, whole(make, **settings))


def test_killed_twice(make, killed, same, tmp_path):
    killed_at(make, killed, tmp_path, 2)
    again = make(steps=8, target=tmp_path, kill_at=7)
    again.resume()
    with pytest.raises(killed):
        again.run()
    same(resumed(make, tmp_path), whole(make))


def test_steps_after_the_last_checkpoint_are_done_again_and_logged_once(make, killed, same, tmp_path):
    training = make(steps=8, target=tmp_path, kill_at=6)
    training.module.register_forward_pre_hook(
        lambda *_: setattr(training, "checkpoint_seconds", 1e6) if training.progress.step == 3 else None
    )
    with pytest.raises(killed):
        training.run()
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["step-000000002", "step-000000003"]
    same(resumed(make, tmp_path), whole(make))


@pytest.mark.parametrize("step", [3, 4])
def test_end_of_epoch_is_not_left_out_by_a_kill(make, killed, tmp_path, step):
    """Killed before the next epoch's first step, the end of the epoch is told again, because what it did was lost."""
    calls = []

    def tell(epoch: int, step: int) -> bool:
        calls.append((epoch, step))
        return False

    killed_at(make, killed, tmp_path, step, end_of_epoch=tell)
    assert calls == [(0, 3)]
    resumed(make, tmp_path, end_of_epoch=tell)
    assert calls == [(0, 3)] + ([(0, 3)] if step == 3 else []) + [(1, 6), (2, 8)]


def test_nothing_to_resume_starts_afresh(make, same, tmp_path):
    same(resumed(make, tmp_path), whole(make))


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def another_step(path):
    state = json.loads(path.read_text())
    state["progress"]["step"] -= 1  # one flipped bit in a digit: still JSON
    path.write_text(json.dumps(state))


DAMAGE = [
    ("state.safetensors", cut),
    ("state.safetensors", flip),
    ("state.safetensors", lambda path: path.unlink()),
    ("state.json", cut),
    ("state.json", lambda path: path.unlink()),
    ("state.json", lambda path: path.write_text("[]")),
    ("state.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ("state.json", another_step),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(make, killed, same, tmp_path, name, damage):
    killed_at(make, killed, tmp_path, 5)
    damage(tmp_path / "checkpoint" / "step-000000005" / name)
    training = resumed(make, tmp_path)
    (warning,) = training.checkpoints.warnings
    assert "step-000000005: this checkpoint is damaged" in warning
    assert "the one before it is used" in warning
    same(training, whole(make))


def test_all_checkpoints_damaged_start_afresh(make, killed, same, tmp_path):
    killed_at(make, killed, tmp_path, 5)
    for path in (tmp_path / "checkpoint").iterdir():
        cut(path / "state.safetensors")
    training = resumed(make, tmp_path)
    assert len(training.checkpoints.warnings) == 2
    same(training, whole(make))


def test_what_a_kill_left_half_written_is_no_checkpoint(make, killed, same, tmp_path):
    killed_at(make, killed, tmp_path, 4)
    torso = tmp_path / "checkpoint" / ".step-000000005.partial"
    torso.mkdir()
    (torso / "state.safetensors").write_bytes(b"torso")
    training = resumed(make, tmp_path)
    assert training.checkpoints.warnings == []
    same(training, whole(make))
    assert not torso.exists()


@pytest.mark.parametrize(("key", "value"), [("lr", 0.01), ("seed", 9), ("dropout", 0.4)])
def test_a_checkpoint_of_other_settings_is_refused_by_name(make, killed, tmp_path, key, value):
    killed_at(make, killed, tmp_path, 2)
    with pytest.raises(UsageError, match=rf"the interrupted run had {key}=.*, this one has {value}; resume with the same settings"):
        resumed(make, tmp_path, **{key: value})


def test_a_checkpoint_of_other_data_is_refused(make, killed, tmp_path):
    killed_at(make, killed, tmp_path, 2, fingerprint={"data": "a"})
    with pytest.raises(UsageError, match="the interrupted run had data=a, this one has b"):
        resumed(make, tmp_path, fingerprint={"data": "b"})


def test_two_checkpoints_are_kept_of_tensors_and_json_alone(make, killed, tmp_path):
    killed_at(make, killed, tmp_path, 6)
    folder = tmp_path / "checkpoint"
    assert sorted(path.name for path in folder.iterdir()) == ["step-000000005", "step-000000006"]
    for path in folder.iterdir():
        assert sorted(one.name for one in path.iterdir()) == ["state.json", "state.safetensors"]


def test_optimiser_comes_back_whole(make, killed, tmp_path):
    killed_at(make, killed, tmp_path, 3)
    training = make(steps=8, target=tmp_path)
    training.resume()
    states = training.optimizer.state_dict()["state"]
    assert len(states) == len(list(training.module.parameters()))
    assert all(float(state["step"]) == 3 for state in states.values())
    assert any(torch.any(state["exp_avg"] != 0) for state in states.values())


def test_no_room_for_a_checkpoint_keeps_the_ones_before(make, killed, same, tmp_path):
    training = make(steps=8, target=tmp_path)
    training.module.register_forward_pre_hook(lambda *_: limit(100) if training.progress.step == 4 else None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    try:
        with pytest.raises(OSError, match=r"\[Errno 27\] File too large: '.*state\.safetensors'"):
            training.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = resumed(make, tmp_path)
    assert again.checkpoints.warnings == []
    same(again, whole(make))
