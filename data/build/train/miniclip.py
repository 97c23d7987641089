"""MiniCLIP: a CLIP of our own, trained contrastively on EmoFaces train and saved as data/miniclip.

Loss: the symmetric cross entropy of Radford et al. 2021 (CLIP, figure 3), except that the targets are spread
over all pairs that are true. "photo of an angry person" fits many pictures of the batch; none is a negative.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES
from emolib.runtime import pick_device, repo_path
from train import augment, captions, data, files, options
from train.loop import train
from train.tokenizer import learn


def network(
    tokenizer: CLIPTokenizer,
    size: int,
    *,
    patch: int = 12,
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


def contrastive(
    pictures: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, true: torch.Tensor
) -> torch.Tensor:
    """Mean of both directions' cross entropy; `true` (texts, pictures) bool marks every pair that fits.

    Embeddings are (B, D) of length one. With `true` the identity this is CLIP's own loss.
    """
    logits = scale * texts.float() @ pictures.float().T
    true = true.float()
    to_pictures = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    to_texts = F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
    return (to_pictures + to_texts) / 2


@torch.no_grad()
def zero_shot(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: torch.Tensor, batch: int = 256
) -> torch.Tensor:
    """(N, 9) cosine similarity of pictures, uint8 or in [-1, 1], with "a photo of an angry person" etc."""
    texts = [words.prompt(emotion) for emotion in EMOFACES]
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


def arguments():
    text = "Trains MiniCLIP on EmoFaces train."
    out = options.parser(
        "miniclip", text, steps=4000, batch=252, lr=1e-3, ema=0.998, weight_decay=0.1, warmup=300
    )
    out.add_argument("--out", type=Path, default=repo_path("data", "miniclip"), help="default data/miniclip")
    out.add_argument("--patch", type=int, default=12, help="px of the picture tower's patches; default 12")
    out.add_argument("--width", type=int, default=160, help="of both towers; default 160")
    out.add_argument(
        "--layers", type=int, nargs=2, default=(5, 3), help="picture and text tower; default 5 3"
    )
    out.add_argument(
        "--siblings", type=float, default=0.5, help="part of the steps with whole families; default 0.5"
    )
    out.add_argument("--variants", type=int, default=16, help="captions drawn for a picture; default 16")
    return out.parse_args()


def main() -> None:
    args = arguments()
    plan, device = options.plan(args, "miniclip"), pick_device(args.device)
    people, val = data.load("train", args.data).to(device), data.load("val", args.data).to(device)
    texts = [c.text for row in captions.texts(people.frame, args.variants, plan.seed) for c in row]
    tokenizer = learn(texts)
    bank = captions.bank(people.frame, tokenizer, variants=args.variants, seed=plan.seed).to(device)
    torch.manual_seed(plan.seed)
    model = network(
        tokenizer, people.images.shape[-1], patch=args.patch, width=args.width, layers=tuple(args.layers)
    )

    def losses(model, step, draw):
        rows, _ = data.step_rows(people, plan.batch, plan.seed, step, args.siblings)
        which = torch.randint(bank.ids.shape[1], rows.shape, generator=draw, device=device)
        x = augment.distort(data.pixels(people.images[rows]), draw)
        out = model(input_ids=bank.ids[rows, which].long(), pixel_values=x)
        scale = model.logit_scale.exp().clamp(max=100)
        return {"loss": contrastive(out.image_embeds, out.text_embeds, scale, bank.true_of(rows, which))}

    def evaluate(model, step):
        scores = zero_shot(model, tokenizer, val.images)
        return {"val_accuracy": float((scores.argmax(1) == val.emotion).float().mean())}

    trained = train(plan, model, losses, evaluate=evaluate)
    save(trained, tokenizer, args.out)
    print(f"saved {args.out}, {files.megabytes(args.out):.2f} MB")


if __name__ == "__main__":
    options.run(main)
