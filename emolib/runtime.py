"""Where and how things run: device, dtype, generators, paths, versions, progress, safe writes.

The only module that reads the environment: `EMOLIB_HOME` (a clone of the repository, where `data/` lies),
`EMOLIB_DEVICE` (what "auto" means) and the keys of hosted services. Loads no torch until a function that
needs it is called.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from emolib import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

DEVICES = ("cpu", "cuda", "mps")
SEEDS = (-(2**63), 2**64 - 1)
"""The least and the greatest seed that torch takes."""

REPORTED = ("torch", "diffusers", "transformers", "accelerate", "torchmetrics", "scikit-learn")
REPORTED += ("scikit-image", "scipy", "numpy", "pillow")
"""Whose version is reported: the packages that make pictures and numbers."""


class InputError(ValueError):
    """The user's input is wrong; the message is one line: what, where, how to mend it. Exit code 2."""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most like `word` (case ignored), or None when nothing is close."""
    by_key = {str(option).casefold(): str(option) for option in options}
    key = str(word).strip().casefold()
    starts = [name for name in by_key if len(key) >= 3 and name.startswith(key)]
    close = starts or difflib.get_close_matches(key, by_key, n=1, cutoff=0.6)
    return by_key[close[0]] if close else None


def one_of(word: str, options: Iterable[str], what: str = "value") -> str:
    """`word` if it is one of `options`; otherwise InputError naming the nearest option and all of them."""
    names = [str(option) for option in options]
    if word in names:
        return word
    guess = nearest(word, names)
    hint = f"did you mean {guess!r}? " if guess else ""
    raise InputError(f"unknown {what} {word!r}; {hint}known: {', '.join(names)}")


def in_range(value: float, low: float, high: float, what: str = "value") -> float:
    """`value` if it lies in [low, high], which NaN never does; otherwise InputError naming both ends."""
    if low <= value <= high:
        return value
    raise InputError(f"{what} must lie in [{low}, {high}], not {value}")


def repo_root() -> Path:
    """Find the clone of the repository: `EMOLIB_HOME`, else the package's own, else one around us.

    InputError where there is none (emolib installed alone, outside a clone)."""
    home, here = os.environ.get("EMOLIB_HOME"), Path.cwd()
    if home and Path(home).is_dir():
        return Path(home).resolve()
    for folder in () if home else (Path(__file__).resolve().parent.parent, here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "emolib").is_dir():
            return folder
    looked = f"EMOLIB_HOME={home} is no folder" if home else "this is no clone of the repository"
    raise InputError(f"emolib's data folder was not found: {looked}; set EMOLIB_HOME to a clone")


def repo_path(*parts: str) -> Path:
    """Absolute path of something in the repository, e.g. `repo_path("data", "judges")`. Need not exist."""
    return repo_root().joinpath(*parts)


def read_key(*variables: str) -> str:
    """Read a service's secret key from the first of these environment variables that is set.

    Keep it in no variable that lives longer than a request. InputError, which never shows the key: none is
    set, or it holds what no key holds (a newline from pasting, say)."""
    name = next((name for name in variables if os.environ.get(name)), None)
    if name is None:
        raise InputError(f"no key: set the environment variable {' or '.join(variables)}")
    if not re.fullmatch(r"[!-~]+", os.environ[name]):
        raise InputError(
            f"the key in {name} has a space, a newline or another strange character; set it anew"
        )
    return os.environ[name]


def check_device(name: str) -> None:
    """InputError unless `name` has the form of a device: "auto", "cpu", "cuda", "mps" or e.g. "cuda:1".

    Without torch: whether this machine has it, `pick_device` tells."""
    kind, colon, number = name.partition(":")
    one_of(kind, DEVICES if colon else ("auto", *DEVICES), "device")
    if colon and not re.fullmatch("[0-9]|[1-9][0-9]", number):
        raise InputError(f"device {name!r} is malformed; write e.g. 'cuda' or 'cuda:0'")


def pick_device(name: str = "auto") -> torch.device:
    """Choose the device: "auto" is `EMOLIB_DEVICE` if set, else CUDA, else Apple MPS, else the CPU.

    InputError for a device this machine does not have."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = os.environ.get("EMOLIB_DEVICE") or "auto"
    if name == "auto":
        name = next(kind for kind in present if present[kind])
    check_device(name)
    if not present[name.partition(":")[0]]:
        raise InputError(f"device {name!r} is not available on this machine; use 'auto' or 'cpu'")
    return torch.device(name)


def hub_errors() -> tuple[type[Exception], ...]:
    """What an unreachable Hub raises: OSError, or an error of the client that huggingface_hub uses (httpx, or
    httpx2 in its newer versions)."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0]


def fast_bf16(device: torch.device | str) -> bool:
    """Whether `device` computes in bfloat16 at full speed.

    Where it does not (CPUs without AVX512-BF16 or AMX, older GPUs), PyTorch emulates it; on an AVX2 machine
    that was ten times slower than float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return kind == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)
    return False


def pick_dtype(device: torch.device | str, name: str = "auto") -> torch.dtype:
    """Choose the dtype of network weights on `device`: "auto" is float16 on CUDA, else float32."""
    import torch

    if name == "auto":
        name = "float16" if torch.device(device).type == "cuda" else "float32"
    return getattr(torch, one_of(name, ("float32", "float16", "bfloat16"), "dtype"))


def free_memory(device: torch.device | str) -> int:
    """Bytes that may still be allocated on `device`; elsewhere than on CUDA, what the machine has in all."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def script(main: Callable[[], None]) -> None:
    """Run a script's `main`: on an InputError one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it says nothing."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def generator(seed: int, *keys: object) -> torch.Generator:
    """A CPU generator for `seed` and the stream named by `keys`, e.g. `generator(0, "noise", image_id)`.

    Streams of different keys are independent, so that turning one feature off changes no other draw; draws
    are made on the CPU and moved, so that every device sees the same numbers. InputError: a seed beyond what
    torch takes."""
    import torch

    value = derive_seed(seed, *keys, n_bytes=8) if keys else int(seed)
    return torch.Generator(device="cpu").manual_seed(in_range(value, *SEEDS, "seed"))


def derive_seed(seed: int, *keys: object, n_bytes: int = 4) -> int:
    """Derive another seed from `seed` and what `keys` name, e.g. a picture's id: 31 bits, to be typed."""
    text = "\0".join([str(int(seed)), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:n_bytes], "big") >> 1


def versions() -> dict[str, str]:
    """What is running, for the record: Python, platform, device (if torch is loaded), packages."""
    from importlib import metadata

    report = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    report |= {"cpus": str(os.cpu_count()), "emolib": __version__} | dict.fromkeys(REPORTED, "not installed")
    for name in REPORTED:
        with suppress(metadata.PackageNotFoundError):
            report[name] = metadata.version(name)
    torch = sys.modules.get("torch")
    if torch is not None:
        report["device"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else str(pick_device())
    return report


def versions_report() -> str:
    """Write `versions()` as one line of text."""
    return " | ".join(f"{name} {value}" for name, value in versions().items())


def progress(items: Iterable[T], what: str = "", *, total: int | None = None) -> Iterable[T]:
    """Iterate with a plain-text progress line on stderr: live on a terminal, every ten seconds elsewhere."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    pace = {"mininterval": 0.2} if live else {"mininterval": 10.0, "delay": 10.0}
    return tqdm(items, desc=what or None, total=total, leave=live, ncols=100, **pace)


def check_output(
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    folder: bool = False,
    suffix: str = "",
) -> None:
    """Refuse an output that cannot be written, before any work is done (InputError).

    A file needs a folder that is there and writable, and a name that ends with `suffix`. A `folder` may be
    made later with those above it, and may be there already. What is one of the command's `inputs` (missing
    ones are passed over) is refused under every spelling, links included: writing it would lose that input.
    """
    target = Path(path)
    if fault := _output_fault(target, [Path(source) for source in inputs], folder, suffix):
        raise InputError(f"output {str(target)!r}{fault}")


def _output_fault(target: Path, inputs: list[Path], folder: bool, suffix: str) -> str | None:
    """Why nothing can be written to `target`; None if it can."""
    if suffix and target.suffix != suffix:
        return f": is written as {suffix}; change the suffix"
    place = next(part for part in (target if folder else target.parent, *target.parents) if part.exists())
    if not place.is_dir():
        return f": {str(place)!r} is a file; give another folder"
    if not folder and place != target.parent:
        return f": folder {str(target.parent)!r} does not exist; make it first: mkdir -p {target.parent}"
    for source in inputs if target.exists() else ():
        if source.exists() and source.samefile(target):
            same = "" if source == target else f" ({str(source)!r})"
            return f" is an input of this command{same}; give another name"
    if not folder and target.is_dir():
        return " is a folder; give the name of a file in it"
    return None if os.access(place, os.W_OK) else f": folder {str(place)!r} is not writable; choose another"


@contextmanager
def hold_lock(path: str | os.PathLike[str], busy: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; InputError(`busy`) if another process holds it.

    Released also by a kill. Windows has no such lock: there nothing stops a second run."""
    with open(path, "w") as file:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(busy) from None
        yield


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix) to write to; which replaces `path` on success.

    The file has the mode of any new file. InputError before anything is written if the folder is missing or
    `path` is a folder; OSError where writing fails, of safetensors' own errors too."""
    target = Path(path)
    check_output(target)
    # The suffix stays, because PIL and others choose the format by it; the stem does not, for it may be long.
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors makes files for their owner alone
        with _safetensors_errors_as_os_errors(target):
            yield temporary
        temporary.chmod(mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill; its files move into `path` when all are written.

    `path` and the folders above it are made. Modes and errors are those of `atomic_write`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}")
    try:
        temporary.mkdir()
        with _safetensors_errors_as_os_errors(target):
            yield temporary
        target.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            file.chmod(temporary.stat().st_mode & 0o666)
            os.replace(file, target / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _safetensors_errors_as_os_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{target}: cannot be written ({first_line(error)})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out: Python's, CUDA's, or torch's own on the CPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


BROKEN = (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError)
BROKEN += (zipfile.BadZipFile, zlib.error)
"""What readers of JSON, tables, weights, zip files and pictures raise at a file that is not whole."""


@contextmanager
def reading(
    path: str | os.PathLike[str], kind: str, errors: tuple[type[Exception], ...] = BROKEN
) -> Iterator[None]:
    """Turn `errors` of the block, which reads `path`, into one InputError line: missing, or no `kind`."""
    try:
        yield
    except errors as error:
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        fault = (
            "this file is missing"
            if isinstance(error, FileNotFoundError)
            else getattr(error, "strerror", None)
        )
        if fault:
            raise InputError(f"{error.filename or path}: {fault.lower()}") from error
        reason = f"{first_line(error)} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path}: not a readable {kind} ({reason}); get a whole copy of it") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read the JSON value in `path`; InputError if it is missing or no JSON."""
    with reading(path, "JSON file"):
        return json.loads(Path(path).read_bytes())


def local_folder(name: str | os.PathLike[str], file: str = "config.json") -> Path | None:
    """Find the folder `name`, or the copy of the repository `name` in the Hub's cache that holds `file`.

    None where there is neither. Nothing is downloaded."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with suppress(HFValidationError):
        cached = try_to_load_from_cache(str(name), file)
        return Path(cached).parent if isinstance(cached, str) else None
    return None


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 1) -> None:
    """Write `value` as JSON, atomically; numpy and torch values become numbers, NaN raises ValueError."""
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False, default=lambda x: x.tolist())
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
