"""LoRA: what it does to a network by identities; its files, ours and other programs'; what is refused."""

import copy
from pkgutil import resolve_name

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipelines import folder, pictures, sd_pipeline, tiny

from emolib.editors import METHODS
from emolib.editors.inversion import DirectInversion, EditFriendlyInversion, ExactInversion, Img2Img
from emolib.editors.ledits import LEditsPP
from emolib.editors.prompt_to_prompt import PromptToPrompt
from emolib.interventions import lora as loras
from emolib.interventions.lora import Lora, lora
from emolib.runtime import InputError

EVERYTHING = (*loras.TARGETS, "proj_in", "conv1", "time_emb_proj")


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def predict(model, guidance=3.0):
    return model.predict(noise(2, 4, 16, 16), 600, model.embed("a man"), model.null(), guidance).eps


def drawn(model, seed=1, rank=2, **how):
    """A LoRA that does something, as if it had been trained."""
    start = loras.start_lora(model, rank, torch.Generator().manual_seed(seed), **how)
    layers = {name: (a, noise(*b.shape, seed=seed) / 4) for name, (a, b) in start.layers.items()}
    return Lora(layers, model.name, "awe", 7, "CC0")


def difference(model, change, scale=1.0):
    with lora(model, change, scale):
        return predict(model) - predict_plain[model]


predict_plain = {}


@pytest.fixture(params=["sd", "sdxl"])
def model(request):
    model = tiny(request.param)
    predict_plain[model] = predict(model)
    keys = set(model.unet.state_dict())
    yield model
    assert torch.equal(predict(model), predict_plain[model])  # whatever a test did, nothing is left behind
    assert set(model.unet.state_dict()) == keys and not hasattr(model.unet, "peft_config")
    assert not any(m._forward_pre_hooks for m in model.unet.modules())


def test_at_the_start_and_at_scale_0_it_is_the_identity_bit_for_bit(model):
    start = loras.start_lora(model, 2, torch.Generator(), targets=EVERYTHING)
    for change, scale in ((start, 1.0), (drawn(model, targets=EVERYTHING), 0.0), (drawn(model), [0.0, 0.0])):
        assert difference(model, change, scale).abs().max() == 0
    assert difference(model, drawn(model)).abs().max() > 1e-3


def test_hooked_is_merged_is_the_formula_by_hand(model):
    change, scale = drawn(model, targets=EVERYTHING), -0.7
    weights = copy.deepcopy(model.unet.state_dict())
    with lora(model, change, scale):
        hooked = predict(model)
    with loras.merged(model, change, scale):
        torch.testing.assert_close(predict(model), hooked, rtol=1e-3, atol=1e-5)
        for name, (a, b) in change.layers.items():
            expected = weights[f"{name}.weight"].double() + scale * loras.product(a, b).double()
            torch.testing.assert_close(model.unet.get_submodule(name).weight.double(), expected)
    assert all(torch.equal(value, weights[key]) for key, value in model.unet.state_dict().items())


def test_loras_nest_and_add_up(model):
    change, other = drawn(model), drawn(model, seed=2, targets=("proj_in", "to_q"))
    with lora(model, change, 0.6):
        expected = predict(model)
    with lora(model, change, 0.3) as first:
        once = predict(model)
        with lora(model, change, 0.3):
            torch.testing.assert_close(predict(model), expected, rtol=1e-3, atol=1e-5)
            with pytest.raises(RuntimeError, match="oops"), lora(model, other):
                raise RuntimeError("oops")
        assert torch.equal(predict(model), once)
        first.scale = 0.6  # may be changed on the way
        assert torch.equal(predict(model), expected)
        with lora(model, other, 0.0):
            assert torch.equal(predict(model), expected)


def test_each_picture_has_a_scale_of_its_own(model):
    change = drawn(model, targets=EVERYTHING)
    with lora(model, change, [0.5, -1.0]):
        rows = predict(model)
    with lora(model, change, 0.5) as attached:
        first = predict(model)[:1]
        with loras.only_rows(model.unet, [0.0, 1.0]):
            masked = predict(model)
        attached.scale = -1.0
        last = predict(model)[1:]
    torch.testing.assert_close(rows, torch.cat([first, last]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(masked[:1], predict_plain[model][:1], rtol=1e-5, atol=1e-6)
    assert (masked[1:] - predict_plain[model][1:]).abs().max() > 1e-3


def test_a_difference_of_known_rank_is_found_again_and_more_rank_is_never_worse():
    change = noise(12, 3) @ noise(3, 8)
    torch.testing.assert_close(loras.product(*loras.factorise(change, 3)), change, rtol=1e-4, atol=1e-4)
    errors = [(loras.product(*loras.factorise(change, r)) - change).norm() for r in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    kernel = (noise(12, 3) @ noise(3, 4 * 9)).view(12, 4, 3, 3)
    torch.testing.assert_close(loras.product(*loras.factorise(kernel, 3)), kernel, rtol=1e-4, atol=1e-4)


def test_only_a_and_b_learn_in_float32():
    model = copy.deepcopy(tiny("sd"))
    for parameter in model.unet.parameters():
        parameter.data = parameter.data.bfloat16()
    model.dtype = torch.bfloat16
    with lora(model, drawn(model), trainable=True) as attached, torch.enable_grad():
        text = type(model.embed("a"))(model.embed("a").hidden.bfloat16())
        model.predict(noise(1, 4, 16, 16), 600, text).eps.square().mean().backward()
        learned = [p for pair in attached.parameters.values() for p in pair]
        assert all(p.dtype == torch.float32 and p.grad.abs().max() > 0 for p in learned)
        ids = {id(p) for p in learned}
        assert not any(p.requires_grad for p in model.unet.parameters() if id(p) not in ids)


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kohya", [False, True])
def test_a_file_comes_back_bit_for_bit_with_its_header(tmp_path, kohya):
    model, path = tiny("sd"), tmp_path / "awe.safetensors"
    change = drawn(model, targets=EVERYTHING)
    loras.save_lora(change, path, kohya=kohya)
    back = loras.load_lora(path)
    assert back.layers.keys() == change.layers.keys()
    for name, pair in change.layers.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, back.layers[name], strict=True))
    assert (back.model, back.emotion, back.steps, back.licence) == (model.name, "awe", 7, "CC0")
    with safe_open(path, "pt") as file:
        assert file.metadata()["rank"] == "2"
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    if kohya:  # the keys that kohya's scripts, A1111 and ComfyUI look for; none without its alpha
        held = load_file(path)
        assert held[f"{stem}.alpha"] == 2 and f"{stem}.lora_down.weight" in held
        assert sum(key.endswith(".alpha") for key in held) * 3 == len(held)


@pytest.mark.parametrize("kohya", [False, True])
def test_diffusers_loads_it_to_the_same_effect_and_its_own_are_read(tmp_path, kohya):
    model, change = tiny("sd"), drawn(tiny("sd"))
    loras.save_lora(change, tmp_path / "ours.safetensors", kohya=kohya)
    with lora(model, change):
        expected = predict(model)
    theirs = copy.copy(model)
    theirs.pipe = sd_pipeline().from_pretrained(folder("sd"), safety_checker=None)
    theirs.unet = theirs.pipe.unet
    theirs.pipe.load_lora_weights(tmp_path, weight_name="ours.safetensors")
    torch.testing.assert_close(predict(theirs), expected, rtol=1e-4, atol=1e-5)
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(theirs.unet, adapter_name="default_0")
    theirs.pipe.save_lora_weights(tmp_path / "theirs", unet_lora_layers=state)
    with lora(model, tmp_path / "theirs" / "pytorch_lora_weights.safetensors"):
        torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-5)


def test_another_alpha_than_the_rank_is_taken_into_b(tmp_path):
    change = drawn(tiny("sd"))
    loras.save_lora(change, tmp_path / "a.safetensors", kohya=True)
    held = load_file(tmp_path / "a.safetensors")
    held = {key: value / 2 if key.endswith(".alpha") else value for key, value in held.items()}
    save_file(held, tmp_path / "b.safetensors")
    back = loras.load_lora(tmp_path / "b.safetensors")
    assert all(torch.equal(back.layers[name][1], b / 2) for name, (_, b) in change.layers.items())


A, B = torch.ones(2, 8), torch.ones(8, 2)
KEY = "unet.mid_block.attn1.to_q"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{KEY}.lora_A.weight": A, f"{KEY}.lora_B.weight": B, "x.weight": A}, "the first is x.weight"),
        ({f"{KEY}.lora_A.weight": A}, f"{KEY}.lora_A.weight has no fitting"),
        ({f"{KEY}.lora_A.weight": A, f"{KEY}.lora_B.weight": torch.ones(2, 8)}, "has no fitting"),
        (
            {f"{KEY}.lora_A.weight": torch.ones(8, 2), f"{KEY}.lora_B.weight": torch.ones(4, 8)},
            "rank 8 is larger than",
        ),
        ({"text_encoder.q.lora_A.weight": A}, "text encoder"),
        ({"lora_te_text_model_q.lora_down.weight": A}, "text encoder"),
        ({"lora_unet_x.lora_down.weight": A}, "not a LoRA"),
        ({"x.weight": A}, "1 unknown entries, the first is x.weight"),
    ],
)
def test_files_that_are_no_lora_are_refused_in_one_line(tmp_path, tensors, said):
    path = tmp_path / "bad.safetensors"
    save_file({key: value.clone() for key, value in tensors.items()}, path)
    with pytest.raises(InputError) as refusal:
        loras.load_lora(path)
    assert str(path) in str(refusal.value) and said in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_half_written_missing_foreign_and_infinite(tmp_path, model):
    path = tmp_path / "half.safetensors"
    loras.save_lora(drawn(model), path)
    path.write_bytes(path.read_bytes()[:-100])
    for file in (path, tmp_path / "none.safetensors"):
        with pytest.raises(InputError, match=file.name):
            loras.load_lora(file)
    other = tiny("sdxl" if model.unet.config.cross_attention_dim == 16 else "sd")
    for change, scale, said in (
        (drawn(other), 1.0, f"made for {other.name}"),
        (Lora({"nowhere.to_q": (A, B)}), 1.0, "nowhere.to_q .* no such layer"),
        (drawn(model), float("nan"), "finite"),
        (drawn(model), [1.0, float("inf")], "finite"),
    ):
        with pytest.raises(InputError, match=said), lora(model, change, scale):
            pass
    with pytest.raises(InputError, match="rank of .* must lie in"):
        loras.start_lora(model, 99, torch.Generator())


# Editors ----------------------------------------------------------------------------------------------------

WORDLESS = "photo of {article} {description}"
FEW = {"strength": 0.8, "guidance_scale": 2.0, "num_inference_steps": 3}
SPOKEN = [resolve_name(path) for name, path in METHODS.items() if name not in ("asyrp", "ledits++")]


def edit(kind, target="awe", source="anger", **fields):
    editor = kind(tiny("sd"), **FEW | fields)
    return editor(pictures(2), target, generator=torch.Generator().manual_seed(3), source_emotion=source)


@pytest.mark.parametrize("kind", SPOKEN)
def test_the_text_line_begins_at_the_source_prompt_and_passes_the_target(kind):
    awed = edit(kind)
    assert torch.equal(edit(kind, along=1.0), awed)
    stayed = edit(kind, along=0.0)
    if kind is not PromptToPrompt:  # which takes over attention by the words
        torch.testing.assert_close(stayed, edit(kind, target="anger"), rtol=0, atol=1e-5)
    half, beyond = edit(kind, along=0.5), edit(kind, along=1.5)
    assert not torch.equal(half, awed) and not torch.equal(half, stayed) and not torch.equal(beyond, awed)


@pytest.mark.parametrize("kind", [*SPOKEN, LEditsPP])
def test_a_picture_as_it_is_never_sees_the_lora_and_its_edit_does(kind):
    fields = {"template": WORDLESS} if kind is not LEditsPP else {}
    plain, change = edit(kind, **fields), drawn(tiny("sd"))
    with lora(tiny("sd"), change, 0.0):
        torch.testing.assert_close(edit(kind, **fields), plain, rtol=0, atol=1e-5)
    if kind in (EditFriendlyInversion, ExactInversion, DirectInversion, PromptToPrompt):
        reconstruction = tiny("sd").decode(tiny("sd").encode(pictures(2)))
        torch.testing.assert_close(plain, reconstruction, rtol=0, atol=1e-3)
    with lora(tiny("sd"), change, 1.0):
        assert (edit(kind, **fields) - plain).abs().max() > 1e-3


def test_what_is_off_the_text_line_is_refused():
    with pytest.raises(InputError, match="along must lie in"):
        Img2Img(tiny("sd"), along=1.6)
    with pytest.raises(InputError, match="LEDITS"):
        LEditsPP(tiny("sd"), along=0.5)
