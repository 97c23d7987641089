"""Judges: reading their folders, calibrated probabilities, any transformers class, broken folders."""

import pytest
import torch
from judge_standins import judge_folder
from safetensors.torch import load_file, save_file

from emolib.emotions.sets import EMOFACES
from emolib.judges import emotion
from emolib.runtime import InputError


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit"])
def test_a_verdict_is_the_networks_outputs_calibrated(kind, tmp_path):
    network = judge_folder(tmp_path / "mine", kind)
    judge = emotion.load_judge(tmp_path / "mine", device="cpu")
    images = noise(3, 3, 32, 32)
    with torch.no_grad():
        outputs = network(images).logits  # mean and std 0.5: the network takes [-1, 1] as it is
    verdict = judge(images)
    torch.testing.assert_close(verdict.probs, (outputs[:, :9] / 1.5).softmax(1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(verdict.valence, outputs[:, 9].tanh(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(verdict.arousal, outputs[:, 10].tanh(), atol=1e-4, rtol=1e-3)
    assert torch.equal(verdict.emotion, verdict.probs.argmax(1))
    assert verdict.probs.dtype == torch.float32
    assert (judge.name, judge.labels, judge.size) == ("mine", EMOFACES, 32)


def test_pixels_are_normalised_as_the_preprocessor_says(tmp_path):
    network = judge_folder(tmp_path, mean=0.4, std=0.2)
    images = noise(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(((images + 1) / 2 - 0.4) / 0.2).logits
    torch.testing.assert_close(
        emotion.load_judge(tmp_path, device="cpu").logits(images), expected, atol=1e-3, rtol=1e-3
    )


def test_any_size_is_resized_and_a_resized_picture_is_judged_alike(tmp_path):
    judge_folder(tmp_path)
    judge = emotion.load_judge(tmp_path, device="cpu")
    flat = torch.full((1, 3, 32, 32), 0.3)
    large = torch.full((1, 3, 80, 50), 0.3)
    torch.testing.assert_close(judge(large).probs, judge(flat).probs, atol=1e-5, rtol=1e-4)
    assert judge(noise(2, 3, 20, 90)).probs.shape == (2, 9)


def test_batches_do_not_change_the_verdict(tmp_path):
    judge_folder(tmp_path)
    judge, images = emotion.load_judge(tmp_path, device="cpu"), noise(5, 3, 32, 32)
    whole, parts = judge(images), judge(images, batch_size=2)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_temperature_softens_without_changing_the_winner(tmp_path):
    for name, temperature in (("cold", 0.5), ("warm", 5.0)):
        judge_folder(tmp_path / name, temperature=temperature)
    cold, warm = (
        emotion.load_judge(tmp_path / name, device="cpu")(noise(6, 3, 32, 32)) for name in ("cold", "warm")
    )
    assert torch.equal(cold.emotion, warm.emotion)
    assert (cold.probs.max(1).values > warm.probs.max(1).values).all()
    torch.testing.assert_close(warm.probs.sum(1), torch.ones(6))


def test_a_guide_can_be_differentiated_but_never_trains(tmp_path):
    judge_folder(tmp_path)
    judge = emotion.load_judge(tmp_path, device="cpu")
    images = noise(1, 3, 32, 32).requires_grad_()
    judge.logits(images)[0, 0].backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.network.parameters())
    assert not judge(images).probs.requires_grad


def test_roles_live_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    for role in emotion.ROLES:
        with pytest.raises(InputError, match=f"data/judges/{role} lacks config.json"):
            emotion.load_judge(role)
    judge_folder(tmp_path / "data" / "judges" / "guide")
    assert repr(emotion.load_judge("guide", device="cpu")) == "Judge('guide')"


def test_loading_is_silent(tmp_path, capfd):
    judge_folder(tmp_path)
    capfd.readouterr()
    emotion.load_judge(tmp_path, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_unknown_judges_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean 'heldout'"):
        emotion.load_judge("held-out")


def test_broken_judge_folders(tmp_path):
    with pytest.raises(InputError, match="lacks config.json"):
        emotion.load_judge(tmp_path)
    judge_folder(tmp_path / "few", outputs=10)
    with pytest.raises(InputError, match="10 outputs .* do not fit 9 labels, or 9"):
        emotion.load_judge(tmp_path / "few", device="cpu")
    judge_folder(tmp_path / "zero", temperature=0.0)
    with pytest.raises(InputError, match="temperature 0.0"):
        emotion.load_judge(tmp_path / "zero", device="cpu")
    judge_folder(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="not a readable judge"):
        emotion.load_judge(tmp_path / "cut", device="cpu")
    judge_folder(tmp_path / "part")
    weights = tmp_path / "part" / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if "classifier" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="weights lack classifier"):
        emotion.load_judge(tmp_path / "part", device="cpu")
    judge_folder(tmp_path / "text")
    (tmp_path / "text" / "calibration.json").write_text("{")
    with pytest.raises(InputError, match="calibration.json: not a readable JSON"):
        emotion.load_judge(tmp_path / "text", device="cpu")
    judge_folder(tmp_path / "blind")
    (tmp_path / "blind" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="not a readable judge"):
        emotion.load_judge(tmp_path / "blind", device="cpu")


def test_features_are_what_the_last_layer_reads(tmp_path):
    network = judge_folder(tmp_path)
    judge, images = emotion.load_judge(tmp_path, device="cpu"), noise(3, 3, 32, 32)
    verdict, features = judge.describe(images)
    assert features.shape == (3, 12)
    last = network.classifier[-1]
    logits = features @ last.weight.T + last.bias
    torch.testing.assert_close(verdict.probs, (logits[:, :9] / 1.5).softmax(1), atol=1e-4, rtol=1e-3)
    parts = judge.describe(images, batch_size=2)
    torch.testing.assert_close(parts[1], features, atol=1e-5, rtol=1e-4)
    assert not judge.network.classifier[-1]._forward_pre_hooks


def test_a_foreign_classifier_judges_the_emotions_it_names(tmp_path):
    names = ["Angry", "happy", "sad", "surprised", "furious"]
    judge_folder(tmp_path, outputs=5, names=names)
    (tmp_path / "calibration.json").unlink()
    judge = emotion.load_judge(tmp_path, device="cpu")
    # Two of its words mean anger, so neither may claim it.
    assert judge.labels == ("angry", "happiness", "sadness", "surprise", "furious")
    verdict = judge(noise(2, 3, 32, 32))
    torch.testing.assert_close(verdict.probs.sum(1), torch.ones(2))
    assert verdict.valence.isnan().all()


def test_a_foreign_classifier_that_is_not_here(tmp_path):
    with pytest.raises(InputError, match="nor a folder, nor in the local Hub"):
        emotion.load_judge("someone/fer")
