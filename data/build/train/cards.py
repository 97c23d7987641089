"""Writes the model cards from measured numbers: reports/data/*.json and the logs of the training runs.

A card with a number missing is not written. The training curves are drawn to data/*/training.png. The logs
are those in the work folder, which are then copied to data/*/logs, or else the copies there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import matplotlib
from PIL import Image

from emolib.runtime import InputError, atomic_write, one_of, read_json, repo_path
from emolib.training.loop import read_log
from train import files, options

matplotlib.use("Agg")
TEXTS = Path(__file__).parent / "cards"
RUNS = {
    "miniclip": ("miniclip-text", "miniclip-picture"),
    "minisd": ("miniclip-text", "vae", "vae-decoder", "unet"),
    "judges": ("judge-guide", "judge-heldout", "judge-probe"),
}
CURVES = {
    "miniclip-text": {"loss": "contrastive loss, text tower", "val_accuracy": "zero-shot (val), text tower"},
    "miniclip-picture": {"meet": "contrastive loss, picture tower", "val_accuracy": "zero-shot (val), both"},
    "vae": {"l1": "L1", "val_psnr": "PSNR (val), dB"},
    "vae-decoder": {"val_psnr": "PSNR (val), dB, decoder alone"},
    "unet": {
        "loss": "noise-prediction loss",
        "text_rate": "emotion rate, text",
        "edit_rate": "emotion rate, edits",
    },
    "judge-guide": {"loss": "loss, guide", "val_accuracy": "accuracy (val), guide"},
    "judge-heldout": {"loss": "loss, held-out", "val_accuracy": "accuracy (val), held-out"},
    "judge-probe": {"loss": "loss, probe"},
}


def percent(found: dict) -> str:
    """ "91.2 % (89.1 to 93.0, n = 900)"."""
    value, low, high = (f"{100 * found[k]:.1f}" for k in ("value", "low", "high"))
    return f"{value} % ({low} to {high}, n = {found['n']})"


def number(found: dict, unit: str = "", digits: int = 2) -> str:
    """ "31.24 dB (31.02 to 31.47, n = 900)"."""
    value, low, high = (f"{found[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high}, n = {found['n']})"


def table(rows: dict[str, dict], heads: tuple[str, str]) -> str:
    """A markdown table of rates, name by name."""
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name.replace('_', ' ')} | {percent(found)} |" for name, found in rows.items())]
    )


Run = list[list[dict]]
"""The lines of a run's log, and of the logs of the runs that went on from it."""


def logs(work: Path, name: str) -> dict[str, Run]:
    """The runs of the card `name` by their names; "unet-2" is what went on from "unet", and so on. Logs in
    `work` are copied first."""
    folder = repo_path("data", name, "logs")
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for run in RUNS[name]:
        for log in sorted([*work.glob(f"{run}/log.jsonl"), *work.glob(f"{run}-[2-9]/log.jsonl")]):
            shutil.copyfile(log, folder / f"{log.parent.name}.jsonl")
        later = sorted(folder.glob(f"{run}-[2-9].jsonl"))
        found[run] = [read_log(path) for path in (folder / f"{run}.jsonl", *later)]
    return found


def history(run: Run) -> str:
    """What a run cost, part by part."""
    return "; then ".join(map(cost, run))


def joined(run: Run, key: str) -> tuple[list[float], list[float]]:
    """Thousands of pictures seen since the run's very start, and the values of `key` there."""
    seen, x, y = 0, [], []
    for lines in run:
        x += [(seen + line["pictures"]) / 1e3 for line in lines if key in line]
        y += [line[key] for line in lines if key in line]
        seen += lines[-1]["pictures"]
    return x, y


def cost(lines: list[dict]) -> str:
    """Steps, pictures, minutes, device, by a log."""
    last, devices = lines[-1], dict.fromkeys(line["device"] for line in lines if "device" in line)
    plan = next(line["plan"] for line in reversed(lines) if "plan" in line)
    speed = last["pictures"] / max(1e-9, last["seconds"])
    return (
        f"{last['step']:,} steps of {plan['batch']} pictures, "
        f"learning rate {plan['lr']:g}, seed {plan['seed']}: "
        f"{last['seconds'] / 60:.0f} min on {' and '.join(devices)} ({speed:,.0f} pictures/s)"
    )


def draw(runs: dict[str, Run], target: Path) -> None:
    """The curves of these runs' logs, one panel each quantity."""
    from matplotlib import pyplot, ticker

    panels = [(run, *named) for run in runs for named in CURVES.get(run, {}).items()]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.6), layout="constrained")
    for axis, (run, key, text) in zip(axes, panels, strict=True):
        axis.plot(*joined(runs[run], key), linewidth=1)
        axis.set(title=text, xlabel="pictures seen, thousands", xscale="log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, dpi=80)
        chart = Image.open(temporary).convert("RGB").quantize(48, dither=Image.Dither.NONE)
        chart.save(temporary, "PNG", optimize=True)  # a third of the bytes; lines and text need few colours
    pyplot.close(figure)


def judges_facts(found: dict[str, dict]) -> dict[str, str]:
    """The numbers of the judges' card; `found` holds the reports by their part."""
    measured, folder, values = found["judges"], repo_path("data", "judges"), {}
    for role in ("guide", "heldout"):
        calibration = read_json(folder / role / "calibration.json")
        values[f"{role}_temperature"] = f"{calibration['temperature']:.3f}"
        values[f"{role}_ece"] = f"{calibration['ece']:.3f} (n = {calibration['n']})"
        values[f"{role}_accuracy"] = percent(measured[role]["accuracy"])
        values[f"{role}_table"] = table(measured[role]["accuracy_by_emotion"], ("emotion", "recognised"))
        for name in ("valence_error", "arousal_error"):
            values[f"{role}_{name}"] = number(measured[role][name], digits=3)
    return values | {"probe_table": table(measured["probe"], ("attribute", "right"))}


def miniclip_facts(found: dict[str, dict]) -> dict[str, str]:
    """The numbers of MiniCLIP's card."""
    return {
        "miniclip_accuracy": percent(found["miniclip"]["accuracy"]),
        "miniclip_table": table(found["miniclip"]["accuracy_by_emotion"], ("emotion", "recognised")),
    }


def minisd_facts(found: dict[str, dict]) -> dict[str, str]:
    """The numbers of MiniSD's card."""
    vae, text, speed, folder = found["vae"], found["minisd"], found["speed"], repo_path("data", "minisd")
    unet, decoder = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    return {
        "native": str(unet["sample_size"] * 2 ** (len(decoder["block_out_channels"]) - 1)),
        "psnr": number(vae["psnr"], " dB"),
        "psnr_96": number(vae["psnr_96"], " dB"),
        "ssim": number(vae["ssim"]),
        "vae_original": percent(vae["accuracy_original"]),
        "vae_reconstructed": percent(vae["accuracy_reconstructed"]),
        "text_emotion": percent(text["emotion"]),
        "text_attributes": percent(text["attributes_all"]),
        "text_table": table(text["emotion_by_name"], ("emotion in the prompt", "recognised")),
        "attribute_table": table(text["attributes"], ("attribute in the prompt", "right")),
        "sampling": f"{text['steps']} DDIM steps, guidance {text['guidance_scale']:g}",
        "seconds": f"{speed['seconds']:.2f} s on {speed['threads']} CPU threads",
    }


FACTS = {"judges": judges_facts, "miniclip": miniclip_facts, "minisd": minisd_facts}


def samples(work: Path, target: Path) -> None:
    """The last sheet of the UNet's last run, twice its size, as WebP at `target`; none: that there stays."""
    folders = sorted(path for path in work.glob("unet*") if path.is_dir())
    if sheets := sorted(folders[-1].glob("samples-*.png")) if folders else []:
        with Image.open(sheets[-1]) as sheet, atomic_write(target) as temporary:
            sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.LANCZOS).save(
                temporary, "WEBP", quality=85
            )


def write(name: str, reports: Path, work: Path) -> None:
    """Write the card of data/`name`, and its curves. InputError if a number is missing."""
    folder = repo_path("data", name)
    found = {path.stem: read_json(path) for path in reports.glob("*.json")}
    try:
        runs = logs(work, name)
        values = FACTS[name](found)
        values |= {f"run_{run.replace('-', '_')}": history(parts) for run, parts in runs.items()}
        values |= {key: str(found["judges"][key]) for key in ("people", "pictures")}
    except (KeyError, FileNotFoundError) as error:
        raise InputError(f"a number is missing ({error}); run train.report and keep the runs' logs") from None
    draw(runs, folder / "training.png")
    if name == "minisd":
        samples(work, folder / "samples.webp")
    values[f"megabytes_{name}"] = f"{files.megabytes(folder):.1f}"
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text((TEXTS / f"{name}.md").read_text().format(**values))
    print(f"wrote {folder / 'README.md'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.cards", description=__doc__.splitlines()[0])
    parser.add_argument("cards", nargs="*", default=list(FACTS), help=f"of {' '.join(FACTS)}; default all")
    parser.add_argument("--reports", type=Path, default=repo_path("reports", "data"))
    parser.add_argument("--work", type=Path, default=repo_path("data", "build", "work"))
    args = parser.parse_args()
    for name in args.cards:
        write(one_of(name, FACTS, "card"), args.reports, args.work)


if __name__ == "__main__":
    options.run(main)
