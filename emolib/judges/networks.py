"""Networks that know photographs: where they come from, and ONNX files as networks.

Nothing is fetched unasked: `emolib judge fetch NAME` says size and licence first, all else reads the Hub's
cache. Weights are safetensors or ONNX; pickles are never read.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emolib.runtime import InputError, first_line, hub_errors, local_folder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NAMES = {
    "photo-guide": "opencv/facial_expression_recognition",  # MobileFaceNet, trained on RAF-DB
    "photo-heldout": "trpakov/vit-face-expression",  # ViT-B/16, trained on FER2013
    "sface": "opencv/face_recognition_sface",
    "yunet": "opencv/face_detection_yunet",
}
"""Short name -> Hub repository. The two judges differ in data and architecture; one guides, one measures."""
ONNX = {
    "opencv/facial_expression_recognition": "facial_expression_recognition_mobilefacenet_2022july.onnx",
    "opencv/face_recognition_sface": "face_recognition_sface_2021dec.onnx",
    "opencv/face_detection_yunet": "face_detection_yunet_2023mar.onnx",
}
"""Repositories (OpenCV's) that are one ONNX file without a transformers configuration."""
ANY_ONNX, CONFIGS = "model.onnx", ("config.json", "preprocessor_config.json", "calibration.json")


def find_onnx(name: str | Path) -> Path | None:
    """Find one of `ONNX` by short name, Hub id (in the cache), folder or file; None where there is none."""
    if Path(name).suffix == ".onnx" and Path(name).is_file():
        return Path(name)
    repository = NAMES.get(str(name), str(name))
    for file in [ONNX[repository]] if repository in ONNX else ONNX.values() if Path(name).is_dir() else ():
        folder = local_folder(repository, file)
        if folder is not None and (folder / file).is_file():
            return folder / file
    return None


def require_onnx(name: str | Path) -> Path:
    """Find one of `ONNX` as `find_onnx` does. InputError where there is none."""
    path = find_onnx(name)
    if path is None:
        hint = f": emolib judge fetch {name}" if NAMES.get(str(name), str(name)) in ONNX else ""
        raise InputError(f"network {str(name)!r} is not on this machine; fetch it first{hint}")
    return path


def fetch_network(name: str, agree: Callable[[str], bool]) -> Path | None:
    """Fetch a network of `NAMES`, or a classifier by Hub id, into the Hub's cache: its folder there.

    `agree` is told repository, size and licence in one line; None where it says no. InputError: no network,
    no such repository, no safe weights in it.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository = NAMES.get(name, name)
    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=15)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = [ONNX[repository]] if repository in ONNX else ["*.safetensors"]
        if not any(fnmatch(file, pattern) for file in sizes for pattern in weights):
            weights = [ANY_ONNX]
        chosen = [file for file in sizes if any(fnmatch(file, p) for p in (*weights, *CONFIGS))]
        if not set(chosen) - set(CONFIGS):
            raise InputError(
                f"{repository}: no safetensors or {ANY_ONNX} (pickles are not read); name another"
            )
        licence = (info.card_data or {}).get("license") or "not stated"
        size = sum(sizes[file] for file in chosen) / 1e6
        if not agree(f"{repository}: {size:.1f} MB, licence: {licence}"):
            return None
        return Path(snapshot_download(repository, allow_patterns=chosen))
    except (*hub_errors(), ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{repository} cannot be fetched ({first_line(error)}); connect to the network, check the name"
        ) from None


@cache
def open_session(source: Path | bytes) -> InferenceSession:
    """Open an ONNX file, or its bytes, on the CPU with as many threads as torch has. InputError: broken."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as faults
    except ImportError:
        raise InputError("ONNX networks need a package: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # who waits leaves the core
    options.log_severity_level = 3  # it warns of the outputs' declared sizes at every run
    model = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (faults.Fail, faults.InvalidProtobuf, faults.InvalidGraph) as error:
        raise InputError(
            f"{source}: not a readable ONNX file ({first_line(error)}); get a whole copy"
        ) from None


class OnnxNetwork(torch.nn.Module):
    """An ONNX file as a module: pixels (B, 3, H, W) -> `.logits` (B, K), its first output, one by one.

    Nothing is differentiable. `head`, the identity, stands for the last layer: features are the logits."""

    def __init__(self, path: Path, outputs: int) -> None:
        super().__init__()
        self.session = open_session(path)
        self.head = torch.nn.Linear(outputs, outputs, bias=False)
        torch.nn.init.eye_(self.head.weight)

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(run_onnx(self.session, pixels).to(self.head.weight)))


def run_onnx(session: InferenceSession, pixels: Tensor) -> Tensor:
    """Run a network on (B, 3, H, W), one picture a call, as most files are made for: (B, K) float32."""
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: one.detach().cpu().numpy()})[0] for one in pixels.float().split(1)]
    return torch.cat([torch.from_numpy(row).reshape(1, -1) for row in rows])
