"""MiniCLIP: a CLIP of our own, trained contrastively on EmoFaces train in two parts, text first.

`text`: the text tower learns against frozen features of the pictures (the guide judge's stages and coarse
colours), which are computed once, and against linear readings of the attributes a caption names; that takes
minutes, and this tower is all that MiniSD waits for. `picture`: the text transformer is locked, as in Zhai et
al. 2022 (LiT, with the towers' roles exchanged), and the picture tower and both projections learn to meet;
from random weights a transformer starts slowly, so its patches also learn to predict the guide judge's
features of the same place. The result is saved as data/miniclip.

Loss: the symmetric cross entropy of Radford et al. 2021 (CLIP, figure 3), except that the targets are spread
over all pairs that are true. "photo of an angry person" fits many pictures of the batch; none is a negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
)

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES
from emolib.runtime import InputError, pick_device, progress, repo_path
from train import appearance, captions, data, files, options
from train.loop import Plan, train
from train.tokenizer import learn
from train.towers import Meeting, Seeing, contrastive, reading, texts_of


def network(
    tokenizer: CLIPTokenizer,
    size: int,
    *,
    patch: int = 16,
    width: int = 160,
    layers: tuple[int, int] = (5, 3),
) -> CLIPModel:
    """A randomly initialised CLIP for pictures of `size` px; `layers` of the picture and the text tower."""
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 32)}
    text = shape | {
        "num_hidden_layers": layers[1],
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shape | {"num_hidden_layers": layers[0], "image_size": size, "patch_size": patch}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


@torch.no_grad()
def zero_shot(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: torch.Tensor, batch: int = 256
) -> torch.Tensor:
    """(N, 9) cosine similarity of pictures, uint8 or in [-1, 1], with "a photo of an angry person" etc."""
    texts = [words.prompt(emotion, template=words.CAPTION) for emotion in EMOFACES]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").to(images.device)
    target = F.normalize(model.get_text_features(**tokens).pooler_output.float(), dim=-1)
    rows = []
    for part in images.split(batch):
        part = part if part.is_floating_point() else data.pixels(part)
        found = model.get_image_features(pixel_values=part).pooler_output.float()
        rows.append(F.normalize(found, dim=-1) @ target.T)
    return torch.cat(rows)


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The model in fp16, its tokenizer and image processor, as one folder."""
    size = model.config.vision_config.image_size
    half, square = [0.5] * 3, {"height": size, "width": size}
    with files.whole_folder(folder) as temporary:
        files.save_half(model, temporary)
        tokenizer.save_pretrained(temporary)
        CLIPImageProcessorPil(
            size=square, do_center_crop=False, crop_size=square, image_mean=half, image_std=half
        ).save_pretrained(temporary)


@torch.no_grad()
def seen(judge: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the frozen side knows of pictures (B, 3, H, W): (B, F) for all of it, (B, C, h, w) for each place.

    The judge's stages and the picture itself, averaged over coarse grids; places are its third stage.
    """
    stages = judge(images, output_hidden_states=True).hidden_states[1:]
    parts = [F.adaptive_avg_pool2d(stage, 3).flatten(1) for stage in stages]
    return torch.cat([*parts, F.adaptive_avg_pool2d(images, 6).flatten(1)], 1), stages[2]


@dataclass
class World:
    """What both parts need: pictures, captions, the judge, the plan and the device."""

    args: object
    people: data.Portraits
    val: data.Portraits
    judge: nn.Module
    plan: Plan

    def features(self, people: data.Portraits) -> torch.Tensor:
        """(N, 2, F) frozen features of each picture and of its mirror image."""
        parts = []
        for images in progress(people.images.split(128), f"features of {len(people)} portraits"):
            x = data.pixels(images)
            parts.append(torch.stack([seen(self.judge, t)[0] for t in (x, x.flip(-1))], 1))
        return torch.cat(parts)


def open_text(args, tokenizer: CLIPTokenizer, size: int) -> CLIPModel:
    """The CLIP whose text tower `picture` meets: what `text` saved, or a Stable Diffusion's text encoder.

    With the latter, its projection and the picture tower begin at random.
    """
    config = AutoConfig.from_pretrained(args.text)
    if config.model_type == "clip":
        return CLIPModel.from_pretrained(args.text, dtype=torch.float32)
    layers = (args.layers[0], config.num_hidden_layers)
    clip = network(tokenizer, size, patch=args.patch, width=config.hidden_size, layers=layers)
    encoder = CLIPTextModel.from_pretrained(args.text, dtype=torch.float32)
    clip.text_model.load_state_dict(encoder.state_dict())
    return clip


def train_text(world: World, tokenizer: CLIPTokenizer, bank: captions.Bank) -> CLIPModel:
    """The text tower against frozen features."""
    args, people, val, plan = world.args, world.people, world.val, world.plan
    features, val_features = world.features(people), world.features(val)[:, 0]
    if args.start:
        clip = CLIPModel.from_pretrained(args.start, dtype=torch.float32)
    else:
        shape = {"patch": args.patch, "width": args.width, "layers": tuple(args.layers)}
        clip = network(tokenizer, people.images.shape[-1], **shape)
    counts = (bank.values.amax(0) + 1).tolist()
    prompts = tokenizer(
        [words.prompt(emotion, template=words.CAPTION) for emotion in EMOFACES],
        padding="max_length",
        return_tensors="pt",
    ).input_ids.to(people.images.device)

    def losses(model, step, draw):
        rows, _ = data.step_rows(people, plan.batch, plan.seed, step, args.siblings)
        which = torch.randint(bank.ids.shape[1], rows.shape, generator=draw, device=rows.device)
        flip = torch.randint(2, rows.shape, generator=draw, device=rows.device)
        texts, pictures, logits = model(bank.ids[rows, which], features[rows, flip])
        scale = model.clip.logit_scale.exp().clamp(max=100)
        meet = contrastive(pictures, texts, scale, bank.true_of(rows, which))
        read = reading(logits, bank.values[rows], bank.named[rows, which])
        return {"loss": meet + args.read * read, "meet": meet, "read": read}

    @torch.no_grad()
    def evaluate(model, step):
        scores = model.pictures(val_features) @ texts_of(model.clip, prompts).T
        return {"val_accuracy": float((scores.argmax(1) == val.emotion).float().mean())}

    return train(plan, Meeting(clip, features.flatten(0, 1), counts), losses, evaluate=evaluate).clip


def train_picture(world: World, tokenizer: CLIPTokenizer, bank: captions.Bank, clip: CLIPModel) -> CLIPModel:
    """The picture tower against the locked text tower."""
    args, people, val, plan = world.args, world.people, world.val, world.plan
    side = clip.config.vision_config.image_size // clip.config.vision_config.patch_size
    channels = seen(world.judge, data.pixels(people.images[:1]))[1].shape[1]

    def losses(model, step, draw):
        rows, _ = data.step_rows(people, plan.batch, plan.seed, step, args.siblings)
        which = torch.randint(bank.ids.shape[1], rows.shape, generator=draw, device=rows.device)
        x = appearance.vary(people, rows, draw, light=0.5, grey=0.0)  # captions name colours
        pictures, places = model(x)
        texts = texts_of(model.clip, bank.ids[rows, which])
        with torch.no_grad():
            wanted = F.adaptive_avg_pool2d(seen(world.judge, x)[1], side).flatten(2).transpose(1, 2)
            wanted = F.layer_norm(wanted, wanted.shape[-1:])
        meet = contrastive(
            pictures, texts, model.clip.logit_scale.exp().clamp(max=100), bank.true_of(rows, which)
        )
        look = F.mse_loss(places.float(), wanted)
        return {"loss": meet + args.look * look, "meet": meet, "look": look}

    def evaluate(model, step):
        scores = zero_shot(model.clip, tokenizer, val.images)
        return {"val_accuracy": float((scores.argmax(1) == val.emotion).float().mean())}

    return train(plan, Seeing(clip, channels), losses, evaluate=evaluate).clip


def arguments():
    text = "Trains MiniCLIP's text tower, then its picture tower, on EmoFaces train. Needs the guide judge."
    out = options.parser(
        "miniclip",
        text,
        steps=600,
        batch=126,
        lr=1e-3,
        ema=0.99,
        weight_decay=0.1,
        warmup=50,
        evaluate_every=100,
    )
    add, work = out.add_argument, repo_path("data", "build", "work")
    add("part", choices=("text", "picture"))
    add(
        "--text",
        type=Path,
        default=work / "miniclip-text" / "final",
        help="what `text` saves, `picture` opens; also a text encoder and its tokenizer",
    )
    add("--out", type=Path, default=repo_path("data", "miniclip"), help="of `picture`; default data/miniclip")
    add("--judge", type=Path, default=repo_path("data", "judges", "guide"), help="default the guide")
    add("--patch", type=int, default=16, help="px of the picture tower's patches; default 16")
    add("--width", type=int, default=160, help="of both towers; default 160")
    add("--layers", type=int, nargs=2, default=(5, 3), help="picture and text tower; default 5 3")
    add("--look", type=float, default=1.0, help="weight of the patches' loss; default 1")
    add("--start", type=Path, default=None, help="of `text`: a folder of MiniCLIP to go on from")
    add("--read", type=float, default=1.0, help="weight of reading attributes from texts; default 1")
    add("--siblings", type=float, default=0.5, help="part of the steps with whole families; default 0.5")
    add("--variants", type=int, default=16, help="captions drawn for a picture; default 16")
    return out.parse_args()


def main() -> None:
    args = arguments()
    plan, device = options.plan(args, f"miniclip-{args.part}"), pick_device(args.device)
    people = data.load("train", args.data, renders=args.renders).to(device)
    val = data.load("val", args.data).to(device)
    if not args.judge.is_dir():
        raise InputError(f"{args.judge}: no judge there; train it first")
    judge = AutoModelForImageClassification.from_pretrained(args.judge, dtype=torch.float32).to(device).eval()
    world = World(args, people, val, judge.requires_grad_(False), plan)
    if args.part == "text" and not args.start:
        tokenizer = learn(
            [c.text for row in captions.texts(people.frame, args.variants, plan.seed) for c in row]
        )
    else:
        folder = args.start or args.text
        if not folder.is_dir():
            raise InputError(f"{folder}: no text tower there; run the part `text` first")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    bank = captions.bank(people.frame, tokenizer, variants=args.variants, seed=plan.seed).to(device)
    torch.manual_seed(plan.seed)
    if args.part == "text":
        trained, out = train_text(world, tokenizer, bank), args.text
    else:
        clip = open_text(args, tokenizer, people.images.shape[-1])
        trained, out = train_picture(world, tokenizer, bank, clip), args.out
    save(trained, tokenizer, out)
    print(f"saved {out}, {files.megabytes(out):.2f} MB")


if __name__ == "__main__":
    options.run(main)
