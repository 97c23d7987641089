"""The one loop by itself, on functions whose minimum is known."""

import pytest
import torch
from safetensors.torch import load_file

from emolib.runtime import InputError
from emolib.training.loop import fit_parameters, read_log
from emolib.training.settings import Plan

PLAN = Plan(steps=60, lr=0.1, warmup=0, decay=0.5, evaluate_every=5, precision="float32")
GOALS = {"a": 1.0, "b": -2.0}


def groups():
    return {name: [torch.nn.Parameter(torch.zeros(2))] for name in GOALS}


def squares(parameters, parts=1):
    """Losses whose minimum is every group's goal, in so many micro-batches."""

    def losses(step, names):
        for _ in range(parts):
            found = {n: (parameters[n][0] - GOALS[n]).square().sum() / parts for n in names}
            yield sum(found.values()), {f"loss {n}": value for n, value in found.items()}

    return losses


def evaluate(parameters):
    return lambda step, names: {
        n: float((parameters[n][0].detach() - GOALS[n]).square().sum()) for n in names
    }


def test_every_group_finds_its_goal_in_micro_batches_too():
    whole, parts = groups(), groups()
    fit_parameters(whole, squares(whole), PLAN)
    fit_parameters(parts, squares(parts, 4), PLAN)
    for name, goal in GOALS.items():
        torch.testing.assert_close(whole[name][0].detach(), torch.full((2,), goal), atol=0.2, rtol=0)
        torch.testing.assert_close(parts[name][0], whole[name][0], atol=1e-5, rtol=0)


def test_a_group_stops_by_itself_at_its_best():
    parameters, worse = groups(), iter(range(100))
    numbers = evaluate(parameters)

    def rising(step, names):
        return {**numbers(step, names), **({"b": float(next(worse))} if "b" in names else {})}

    plan = Plan(**{**vars(PLAN), "patience": 2})
    run = fit_parameters(parameters, squares(parameters), plan, evaluate=rising)
    assert [step for step, _ in run.curves["b"]] == [0, 5, 10] and run.best_of("b") == (0, 0.0)
    assert not parameters["b"][0].any()  # as it was at its best: the start
    assert run.step == run.curves["a"][-1][0] > 10  # the other went on without it


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole, broken = groups(), groups()
    expected = fit_parameters(whole, squares(whole), PLAN, evaluate=evaluate(whole), work=tmp_path / "whole")
    fit_parameters(
        broken, squares(broken), PLAN, evaluate=evaluate(broken), work=tmp_path / "broken", stop=lambda: True
    )
    assert [line["step"] for line in read_log(tmp_path / "broken" / "log.jsonl")] == [0]
    again = groups()
    run = fit_parameters(again, squares(again), PLAN, evaluate=evaluate(again), work=tmp_path / "broken")
    assert run.curves == expected.curves and run.step == 60
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "broken"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(InputError, match="another model"):
        fit_parameters(groups(), squares(again), PLAN, work=tmp_path / "broken", identity="other pictures")


def test_gradients_are_shortened_to_the_clip():
    parameters = groups()
    run = fit_parameters(parameters, squares(parameters), Plan(steps=1, lr=0.1, warmup=0, clip=1e-3))
    assert run.means["grad_norm"] == pytest.approx((2 * 2**2 + 2 * 4**2) ** 0.5)
