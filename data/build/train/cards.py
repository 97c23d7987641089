"""Writes the model cards from measured numbers: reports/data/*.json and the logs of the training runs.

A card with a number missing is not written. The training curves are drawn to data/*/training.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from emolib.data._files import read_json
from emolib.runtime import InputError, atomic_write, repo_path
from emolib.training.checkpoint import read_log
from train import files, options

matplotlib.use("Agg")
TEXTS = Path(__file__).parent / "cards"
RUNS = {
    "miniclip": ("miniclip-text", "miniclip-picture"),
    "minisd": ("vae", "vae-decoder", "unet"),
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
}


def percent(found: dict) -> str:
    """ "91.2 % (89.1 to 93.0, n = 900)"."""
    value, low, high = (f"{100 * found[k]:.1f}" for k in ("value", "low", "high"))
    return f"{value} % ({low} to {high}, n = {found['n']})"


def number(found: dict, unit: str = "") -> str:
    """ "31.24 dB (31.02 to 31.47, n = 900)"."""
    return f"{found['value']:.2f}{unit} ({found['low']:.2f} to {found['high']:.2f}, n = {found['n']})"


def table(rows: dict[str, dict], heads: tuple[str, str]) -> str:
    """A markdown table of rates, name by name."""
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name.replace('_', ' ')} | {percent(found)} |" for name, found in rows.items())]
    )


def history(work: Path, run: str) -> str:
    """What a run cost: steps, pictures, minutes, device."""
    lines = read_log(work / run / "log.jsonl")
    last, devices = lines[-1], dict.fromkeys(line["device"] for line in lines if "device" in line)
    plan = next(line["plan"] for line in reversed(lines) if "plan" in line)
    speed = last["pictures"] / max(1e-9, last["seconds"])
    return (
        f"{last['step']:,} steps of {plan['batch']} pictures, "
        f"learning rate {plan['lr']:g}, seed {plan['seed']}: "
        f"{last['seconds'] / 60:.0f} min on {' and '.join(devices)} ({speed:,.0f} pictures/s)"
    )


def draw(work: Path, runs: tuple[str, ...], target: Path) -> None:
    """The curves of these runs, one panel each quantity."""
    from matplotlib import pyplot

    panels = [(run, *named) for run in runs for named in CURVES.get(run, {}).items()]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.6), layout="constrained")
    for axis, (run, key, text) in zip(axes, panels, strict=True):
        lines = [line for line in read_log(work / run / "log.jsonl") if key in line]
        axis.plot([line["pictures"] / 1e3 for line in lines], [line[key] for line in lines], linewidth=1)
        axis.set(title=text, xlabel="pictures seen, thousands")
        axis.grid(alpha=0.3)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)


def facts(reports: Path, work: Path) -> dict[str, str]:
    """Everything the cards' texts may name in braces."""
    found = {path.stem: read_json(path) for path in reports.glob("*.json")}
    data = repo_path("data")
    values = {f"run_{run.replace('-', '_')}": history(work, run) for runs in RUNS.values() for run in runs}
    for part in ("judges", "miniclip", "minisd"):
        values[f"megabytes_{part}"] = f"{files.megabytes(data / part):.1f}"
    values["people"], values["pictures"] = (str(found["judges"][key]) for key in ("people", "pictures"))
    for role in ("guide", "heldout"):
        calibration = read_json(data / "judges" / role / "calibration.json")
        values[f"{role}_temperature"] = f"{calibration['temperature']:.3f}"
        values[f"{role}_ece"] = f"{calibration['ece']:.3f} (n = {calibration['n']})"
        values[f"{role}_accuracy"] = percent(found["judges"][role]["accuracy"])
        values[f"{role}_table"] = table(
            found["judges"][role]["accuracy_by_emotion"], ("emotion", "recognised")
        )
        for name in ("valence_error", "arousal_error"):
            values[f"{role}_{name}"] = number(found["judges"][role][name])
    values["probe_table"] = table(found["judges"]["probe"], ("attribute", "right"))
    values["miniclip_accuracy"] = percent(found["miniclip"]["accuracy"])
    values["miniclip_table"] = table(found["miniclip"]["accuracy_by_emotion"], ("emotion", "recognised"))
    values["psnr"], values["ssim"] = number(found["vae"]["psnr"], " dB"), number(found["vae"]["ssim"])
    for name in ("original", "reconstructed"):
        values[f"vae_{name}"] = percent(found["vae"][f"accuracy_{name}"])
    minisd = found["minisd"]
    values |= {
        "text_emotion": percent(minisd["emotion"]),
        "text_attributes": percent(minisd["attributes_all"]),
    }
    values["text_table"] = table(minisd["emotion_by_name"], ("emotion in the prompt", "recognised"))
    values["attribute_table"] = table(minisd["attributes"], ("attribute in the prompt", "right"))
    values["sampling"] = f"{minisd['steps']} DDIM steps, guidance {minisd['guidance_scale']:g}"
    speed = found["speed"]
    values["seconds"] = f"{speed['seconds']:.2f} s on {speed['threads']} CPU threads"
    return values


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.cards", description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, default=repo_path("reports", "data"))
    parser.add_argument("--work", type=Path, default=repo_path("data", "build", "work"))
    args = parser.parse_args()
    try:
        values = facts(args.reports, args.work)
    except (KeyError, FileNotFoundError) as error:
        raise InputError(f"a number is missing ({error}); run train.report and keep the runs' logs") from None
    for name, runs in RUNS.items():
        folder = repo_path("data", name)
        draw(args.work, runs, folder / "training.png")
        with atomic_write(folder / "README.md") as temporary:
            temporary.write_text((TEXTS / f"{name}.md").read_text().format(**values))
        print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    options.run(main)
