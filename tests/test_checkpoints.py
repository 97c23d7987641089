"""Finding checkpoints: aliases and their nearest, folders, the Hub with its cache, and what is refused."""

import json
import shutil
import sys

import huggingface_hub
import pytest
import tiny_pipelines
from tiny_pipelines import folder

from emolib import runtime
from emolib.cli.main import main
from emolib.diffusion import backbone
from emolib.diffusion import hub as checkpoints
from emolib.runtime import InputError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minsd", "did you mean 'minisd'"),
        ("SDXL", "did you mean 'sdxl'"),
        ("no such thing", "give minisd, sd15, sd21, sdxl, a folder, or a Hub id"),
        ("a/b/c", "unknown model"),
        ("../up", "unknown model"),
        ("models/sd15--fp16", "unknown model"),
        ("me/model.git", "unknown model"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        backbone.load_backbone(name)


def test_options_are_checked_before_anything_is_loaded():
    with pytest.raises(InputError, match="did you mean 'low'"):
        backbone.load_backbone("minisd", memory="lo")
    with pytest.raises(InputError, match="dtype"):
        backbone.load_backbone(folder("sd"), device="cpu", dtype="float8")


def test_a_missing_minisd_says_where_it_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    with pytest.raises(InputError, match="MiniSD is not in .*data/minisd"):
        backbone.load_backbone("minisd")


def test_folders_that_are_no_stable_diffusion(tmp_path):
    with pytest.raises(InputError, match="has no model_index.json"):
        backbone.load_backbone(tmp_path)
    for name, index, message in (
        ("a", "{", "not a readable JSON file"),
        (
            "b",
            '{"transformer": ["diffusers", "X"], "vae": ["diffusers", "Y"]}',
            "has no unet, scheduler, tokenizer",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(index)
        with pytest.raises(InputError, match=message):
            backbone.load_backbone(tmp_path / name)


def copy_of(kind, path):
    shutil.copytree(folder(kind), path)
    return path


def test_pickled_and_broken_weights_are_refused(tmp_path):
    pickled = copy_of("sd", tmp_path / "pickled")
    (pickled / "unet/diffusion_pytorch_model.safetensors").rename(
        pickled / "unet/diffusion_pytorch_model.bin"
    )
    with pytest.raises(InputError, match="no safetensors weights in unet/"):
        backbone.load_backbone(pickled, device="cpu")
    broken = copy_of("sd", tmp_path / "broken")
    weights = broken / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable Stable Diffusion .*get a whole copy") as caught:
        backbone.load_backbone(broken, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_text_encoder(tmp_path):
    bare = copy_of("sdxl", tmp_path / "bare")
    index = json.loads((bare / "model_index.json").read_text())
    (bare / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    with pytest.raises(InputError, match="has no text_encoder"):
        backbone.load_backbone(bare, device="cpu")


def test_an_inpainting_checkpoint_is_named_as_such(tmp_path):
    tiny_pipelines.sd_pipeline(in_channels=9).save_pretrained(tmp_path / "inpaint")
    with pytest.raises(InputError, match="takes 9 channels, not the 4"):
        backbone.load_backbone(tmp_path / "inpaint", device="cpu")


def test_without_network_one_line_names_the_way_out():
    # The suite runs with the Hub client offline and the sockets closed.
    with pytest.raises(
        InputError, match="'sd15' is not in the local cache and the Hub cannot be reached"
    ) as e:
        backbone.load_backbone("sd15", device="cpu")
    assert "\n" not in str(e.value)


def test_a_cut_connection_is_one_line_whatever_client_asks_the_hub(monkeypatch, capsys):
    base = runtime.hub_errors()[1]
    broken = sys.modules[base.__module__.partition(".")[0]].ConnectError("Name or service not known")
    assert isinstance(broken, base) and not isinstance(broken, OSError)

    def model_info(*args, **options):
        raise broken

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(InputError, match="the Hub cannot be reached .Name or service not known"):
        backbone.load_backbone("sd15", device="cpu")
    assert main(["judge", "fetch", "yunet", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "cannot be fetched (Name or service not known" in said and said.count("\n") == 1


class FakeHub:
    """A Hub that knows some repositories, each a list of files."""

    def __init__(self, **repositories):
        self.repositories, self.asked = repositories, []

    def model_info(self, repository, timeout):
        from types import SimpleNamespace

        import httpx
        from huggingface_hub.errors import RepositoryNotFoundError

        self.asked.append(repository)
        if repository not in self.repositories:
            request = httpx.Request("GET", "https://hub.invalid")
            raise RepositoryNotFoundError("gone", response=httpx.Response(404, request=request))
        files = [SimpleNamespace(rfilename=name) for name in self.repositories[repository]]
        return SimpleNamespace(siblings=files)


def on_hub(monkeypatch, index=None, **repositories):
    hub = FakeHub(**repositories)
    monkeypatch.setattr(checkpoints, "HfApi", lambda: hub)
    path = index or folder("sd") / "model_index.json"
    monkeypatch.setattr(checkpoints, "hf_hub_download", lambda repository, name: str(path))
    return hub


WEIGHTS = "unet/diffusion_pytorch_model"


def test_the_second_repository_of_an_alias_is_tried_when_the_first_is_gone(monkeypatch):
    first, second = checkpoints.ALIASES["sd21"]
    files = ["model_index.json", f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors"]
    hub = on_hub(monkeypatch, **{second: files})
    found = checkpoints.find("sd21", half=True)
    assert hub.asked == [first, second]
    assert (found.path, found.variant) == (second, "fp16")
    assert set(found.without) <= set(checkpoints.UNUSED)


def test_what_the_hub_lacks_is_said(monkeypatch):
    on_hub(monkeypatch, **{"me/pickles": ["model_index.json", f"{WEIGHTS}.bin"], "me/words": ["config.json"]})
    for name, message in (
        ("sd15", "no model stable-diffusion-v1-5/.* or sd-legacy/.* on the Hub"),
        ("me/pickles", "me/pickles: no safetensors weights"),
        ("me/words", "not a diffusers model"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoints.find(name, half=False)


def test_a_complete_cached_copy_needs_no_network(monkeypatch, tmp_path):
    cached = copy_of("sd", tmp_path / "snapshot")
    first, second = checkpoints.ALIASES["sd15"]

    def lookup(repository, name):
        return cached if repository == second else None

    monkeypatch.setattr(checkpoints, "local_folder", lookup)
    assert checkpoints.find("sd15", half=False).path == str(cached)
    assert backbone.load_backbone("sd15", device="cpu").name == "sd15"
    (cached / "vae/diffusion_pytorch_model.safetensors").unlink()  # a download that broke off
    hub = on_hub(monkeypatch, **{first: ["model_index.json", f"{WEIGHTS}.safetensors"]})
    assert checkpoints.find("sd15", half=False).path == first
    assert hub.asked == [first]
