"""Instruction editors: every class of diffusers that is known, on tiny random pipelines; loading; use."""

import functools
import json
import shutil
from dataclasses import replace

import data_standins
import evaluation_world as world
import pytest
import tiny_instruct
import torch
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as qwen
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as qwen_plus
from peft import LoraConfig
from skimage import data
from tiny_pipelines import pictures

from emolib import images
from emolib.cli.main import main
from emolib.diffusion.presets import INSTRUCT
from emolib.editors import instruct, person
from emolib.editors.instruct import Instruct, InstructModel, fit_size, load_model
from emolib.runtime import InputError, generator

SIZE = 48  # px, of the tiny models
SAVED = "pix2pix"


@pytest.fixture(autouse=True)
def small_sides(monkeypatch):
    """Those that always draw a megapixel draw less; licence and names are unaffected."""
    for module in (longcat, qwen, qwen_plus):
        real = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, real=real: real(64**2, ratio))


@functools.cache
def editor(name):
    torch.manual_seed(0)
    model = InstructModel(tiny_instruct.PIPELINES[name](), name)
    model.size = 80 if name == "klein" else SIZE  # whose pictures have 64 px at least
    return Instruct(model, num_inference_steps=1)


@pytest.mark.parametrize("name", tiny_instruct.PIPELINES)
def test_every_class_keeps_the_contract(name):
    edit, source = editor(name), pictures(1, 40)[..., :32]
    both = edit(source, ["anger", "awe"], generator=generator(0))
    assert both.shape == (2, 3, 40, 32) and both.dtype == torch.float32 and both.abs().max() <= 1
    # One noise for all edits of a picture, and other words give another picture.
    assert torch.equal(both[1:], edit(source, "awe", generator=generator(0)))
    assert not torch.equal(both[0], both[1])
    # The line in text space: 0 is the source, "neutral" is its start.
    assert torch.equal(replace(edit, strength=0)(source, "anger", generator=generator(0)), source)
    neutral = edit(source, "neutral", generator=generator(0))
    near = replace(edit, strength=1e-4)(source, "anger", generator=generator(0))
    assert (near - neutral).abs().max() < 1e-3 < (near - both[:1]).abs().max() * 1e3
    assert "encode_prompt" not in vars(edit.model.pipe)


def test_the_table_names_classes_of_diffusers_and_arguments_that_they_take():
    import inspect

    import diffusers

    for kind, family in instruct.FAMILIES.items():
        takes = inspect.signature(getattr(diffusers, kind).__call__).parameters
        sized = ("height", "width") if family.sized else ()
        assert {"image", "prompt", family.guidance, *family.more, *sized} <= set(takes)
        assert {"height", "width"}.isdisjoint(takes) or family.sized


def test_several_pictures_have_noise_of_their_own():
    edit, two = editor(SAVED), pictures(2, 32)
    draws = [generator(0, k) for k in range(2)]
    together = edit(two, ["anger", "awe"], generator=draws, description=["man", "woman"])
    alone = edit(two[1:], "awe", generator=generator(0, 1), description="woman")
    assert torch.equal(together[1:], alone)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(100, 100, (1024, 1024)), (300, 200, (1248, 832)), (64, 4000, (128, 8096)), (1, 1, (1024, 1024))],
)
def test_sizes_keep_shape_and_area(height, width, size):
    assert fit_size(height, width, 1024, 16) == size


def test_only_the_face_changes_per_person():
    photograph = images.resize(images.to_tensor(images.Image.fromarray(data.astronaut())), (128, 128))
    face = (45, 15, 70, 45)
    scene = person.PerPerson(editor(SAVED), SIZE, margin=0.3)
    edited = scene(photograph, [person.Person(face, "anger")], seed=0)
    x0, y0, x1, y1 = images.square_box(face, 128, 128, margin=0.3)
    moved = (edited != photograph).any(1)[0]
    assert moved[y0:y1, x0:x1].float().mean() > 0.5
    moved[y0:y1, x0:x1] = False
    assert not moved.any()


def test_a_folder_is_loaded_and_edits_as_the_pipeline_it_was_saved_from():
    model = load_model(str(tiny_instruct.folder(SAVED)), device="cpu", memory="balanced")
    assert (model.name, model.stride, model.size) == (SAVED, 2, 32)
    edit = Instruct(model, num_inference_steps=1)
    assert edit(pictures(), "anger", generator=generator(0)).isfinite().all()
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OmniGenPipeline"}))
    with pytest.raises(InputError, match=r"'OmniGenPipeline'; .*known: .*Flux2KleinPipeline"):
        load_model(str(tmp_path), device="cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "QwenImageEditPipeline"}))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="pip install torchvision"):
        patch.setattr(instruct, "find_spec", lambda name: None)
        load_model(str(tmp_path), device="cpu")
    with pytest.raises(InputError, match="neither a folder nor"):
        load_model("no such model", device="cpu")


def test_an_alias_says_its_licence_and_memory_before_the_hub_is_asked(capsys):
    for name in INSTRUCT:
        with pytest.raises(InputError, match="cannot be reached"):
            load_model(name, device="cpu")
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and INSTRUCT[name].licence in said and INSTRUCT[name].memory in said


def save_lora(pipe, folder, rank=2):
    torch.manual_seed(1)
    layers = LoraConfig(r=rank, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(layers, "made")
    from peft.utils import get_peft_model_state_dict

    weights = get_peft_model_state_dict(pipe.unet, adapter_name="made")
    type(pipe).save_lora_weights(folder, unet_lora_layers=weights)
    return folder / "pytorch_lora_weights.safetensors"


def test_a_lora_by_file_changes_the_edit_and_one_that_does_not_fit_is_refused(tmp_path):
    path = save_lora(tiny_instruct.pix2pix(), tmp_path)
    plain, tuned = (
        Instruct(load_model(str(tiny_instruct.folder(SAVED)), device="cpu", lora=lora), num_inference_steps=1)
        for lora in (None, path)
    )
    edits = [edit(pictures(), "anger", generator=generator(0)) for edit in (plain, tuned)]
    assert not torch.equal(*edits) and repr(tuned.model) == f"{SAVED}+pytorch_lora_weights"
    with pytest.raises(InputError, match="does not fit a Flux2KleinPipeline"):
        instruct.add_lora(editor("klein").model.pipe, path)
    with pytest.raises(InputError, match="no LoRA to a LongCat"):
        instruct.add_lora(editor("longcat").model.pipe, path)
    with pytest.raises(InputError, match="missing"):
        instruct.add_lora(plain.model.pipe, tmp_path / "none.safetensors")


def test_the_command_edits_a_person(tmp_path, capsys):
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    images.save_image(pictures(1, 64), source)
    command = [
        "edit",
        str(source),
        "-o",
        str(out),
        "--to",
        "anger",
        "--box",
        "16,16,40,40",
        "--device",
        "cpu",
    ]
    command += ["--model", str(tiny_instruct.folder(SAVED)), "--steps", "1"]
    assert main([*command, "--method", "instruct"]) == 0
    before, after = (images.to_tensor(images.open_image(path)) for path in (source, out))
    assert not torch.equal(before, after) and torch.equal(before[..., 50:], after[..., 50:])
    record = images.read_provenance(out)
    assert record["people"][0]["prompt"] == "make the person look angry"
    assert main([*command, "--method", "instruct", "--lora", "a", "--lora", "b"]) == 2
    assert "takes one file" in capsys.readouterr().err
    # An alias says of itself which method it is for.
    command[command.index("--model") + 1] = "qwen-edit"
    assert main(command) == 2 and "Apache-2.0" in (said := capsys.readouterr().err)
    assert "cannot be reached" in said
    assert main([*command, "--method", "ddim"]) == 2
    assert "qwen-edit cannot do ddim; it can do instruct" in capsys.readouterr().err


def test_it_stands_in_the_table_of_scenes_with_and_without_per_person(tmp_path, monkeypatch):
    shutil.copytree(world.make_home(), tmp_path, dirs_exist_ok=True)
    data_standins.write_scenes(tmp_path / "data" / "emofaces")
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    spec = f"instruct:{tiny_instruct.folder(SAVED)}"
    options = replace(world.settings(tmp_path).options, steps=1)
    more = {"data": "emofaces:scenes", "people": 1, "targets": (), "options": options, "identity": ""}
    board = world.evaluate(tmp_path, "nothing", spec, f"{spec}+whole", **more)
    apart, whole = (board["methods"][name]["all"] for name in (spec, f"{spec}+whole"))
    assert apart["bystander_levels"]["value"] == 0 < whole["bystander_levels"]["value"]
    assert apart["background_psnr"]["value"] == "inf" and whole["background_psnr"]["value"] < 40
    assert all("shift" in numbers for numbers in (apart, whole))
