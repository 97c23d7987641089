"""The training loop: exact resumption, the average, the learning rate, and the order of the data."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train import data
from train.loop import STOPPED, Plan, train

from emolib.runtime import InputError
from emolib.training.loop import read_log
from emolib.training.settings import rate


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in a fixed order: resumption is exact for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan(folder, **changes):
    defaults = {"steps": 12, "batch": 8, "lr": 1e-2, "warmup": 3, "ema": 0.9, "log_every": 5}
    return Plan(work=folder, device="cpu", precision="float32", **{**defaults, **changes})


def network():
    """A convolution (channels last), running statistics, a layer that draws: what resumption must keep."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 1)
    return nn.Sequential(*layers)


class Losses:
    """Mean squared outputs on noise; can break off at the start of a step, or send a signal in it."""

    def __init__(self, die_at=None, signal_at=None):
        self.die_at, self.signal_at = die_at, signal_at

    def __call__(self, model, step, draw):
        if step == self.die_at:
            raise KeyboardInterrupt
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 3, 8, 8, generator=draw)
        return {"loss": (model(x) - x.mean((1, 2, 3))[:, None]).pow(2).mean()}


def curve(folder):
    return [
        (line["step"], line["loss"], line["lr"]) for line in read_log(folder / "log.jsonl") if "loss" in line
    ]


@pytest.mark.parametrize("break_at", [1, 7, 11])
def test_a_killed_run_ends_exactly_as_an_unbroken_one(tmp_path, break_at):
    whole, broken = plan(tmp_path / "whole"), plan(tmp_path / "broken", checkpoint_every=0)
    expected = train(whole, network(), Losses())
    with pytest.raises(KeyboardInterrupt):
        train(broken, network(), Losses(die_at=break_at))
    found = train(broken, network(), Losses())
    for a, b in zip(expected.state_dict().values(), found.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert curve(tmp_path / "whole") == curve(tmp_path / "broken")
    assert [step for step, _, _ in curve(tmp_path / "whole")] == [5, 10, 12]


def test_a_signal_ends_the_step_saves_and_exits(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train(plan(tmp_path), network(), Losses(signal_at=4))
    assert stopped.value.code == STOPPED
    found = train(plan(tmp_path), network(), Losses(die_at=4))  # step 4 was finished: it is not run again
    expected = train(plan(tmp_path / "whole"), network(), Losses())
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), found.parameters(), strict=True))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(plan(tmp_path), network(), Losses())
    again = train(plan(tmp_path), network(), Losses(die_at=0))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_it_learns_a_line_and_reports_it(tmp_path):
    truth = torch.tensor([[2.0, -1.0, 0.5]])

    def losses(model, step, draw):
        x = torch.randn(32, 3, generator=draw)
        return {"loss": (model(x) - x @ truth.T).pow(2).mean()}

    evaluate = lambda model, step: {"error": float((model.weight - truth).abs().max())}  # noqa: E731
    settings = {"steps": 200, "lr": 0.05, "weight_decay": 0.0, "evaluate_every": 10}
    found = train(plan(tmp_path, **settings), nn.Linear(3, 1), losses, evaluate=evaluate)
    assert torch.allclose(found.weight, truth, atol=1e-2)
    errors = [line["error"] for line in read_log(tmp_path / "log.jsonl") if "error" in line]
    assert len(errors) == 20 and errors[-1] < 1e-2 < 0.1 < errors[0]


def test_the_average_is_the_running_mean_of_the_weights(tmp_path):
    seen = []

    def losses(model, step, draw):
        seen.append(model.weight.detach().clone())
        return {"loss": model(torch.ones(1, 2)).pow(2).sum()}

    model = nn.Linear(2, 1)
    found = train(plan(tmp_path, steps=5, ema=0.25), model, losses)
    expected = seen[0]
    for step, weight in enumerate([*seen[1:], model.weight.detach()]):
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(found.weight, expected, atol=1e-6)


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tmp_path):
    def losses(model, step, draw):
        return {"loss": model.weight.sum() * (float("nan") if step == 8 else 1.0)}

    with pytest.raises(FloatingPointError, match="no longer a number"):
        train(plan(tmp_path, checkpoint_every=0), nn.Linear(2, 1), losses)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(plan(tmp_path, steps=1), nn.Linear(2, 1), lambda m, s, d: {"loss": m.weight.sum()})
    with pytest.raises(InputError, match="another model"):
        train(plan(tmp_path), nn.Linear(3, 1), lambda m, s, d: {"loss": m.weight.sum()})


def test_the_learning_rate_rises_holds_and_falls_to_zero(tmp_path):
    settings = plan(tmp_path, steps=100, warmup=10, lr=1.0)
    settings = replace(settings, decay=0.2)
    assert [rate(settings, step) for step in (0, 4, 9, 50, 80, 90)] == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5])
    assert rate(settings, 99) == pytest.approx(0.05)


def test_every_pass_shows_every_row_once_in_an_order_of_its_own():
    rows = torch.cat([data.batch_rows(10, 4, seed=3, step=step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert data.batch_rows(3, 8, seed=0, step=1).shape == (8,)


def test_families_come_whole():
    siblings = torch.arange(12).view(4, 3)
    rows = data.sibling_rows(siblings, 7, seed=0, step=0)
    assert rows.view(2, 3).diff(dim=1).eq(1).all() and (rows.view(2, 3)[:, 0] % 3 == 0).all()
