"""Did it learn? A learned token against the word it started from and against no word at all, on fixed seeds.

Whoever calls brings the eyes: `recognise` and `probe` are functions of pictures, so that training knows no
judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emolib.diffusion.backbone import Backbone
from emolib.diffusion.sampling import Trajectory, denoise
from emolib.emotions.words import ADJECTIVES, TEMPLATE, fill_template
from emolib.interventions import splice
from emolib.interventions.lora import Lora, lora
from emolib.interventions.tokens import Token
from emolib.runtime import generator

Recognise = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] -> (B,) bool: is the emotion seen?"""
Probe = Callable[[Tensor, str], Tensor]
"""Pictures, and what the prompt said of the person -> (B,) bool: is it so?"""

SAME = 0.1  # of the difference between the word and no word: less, and the token is still the word
LONG = 1.5  # times the length it started with: longer vectors drown the rest of the prompt
SHORT = 0.1  # times the length it started with: there is next to nothing in it
OBEYED = 0.75  # of what the word leaves of the rest of the prompt
SIDES = ("token", "word", "nothing")


@dataclass(frozen=True)
class Report:
    """What was measured; `lines()` says it in words.

    cosine, moved   between the token's vectors and where they started (means over vectors): the cosine, and
                    the distance in lengths of the start
    norm_ratio      mean length of the vectors, in lengths of where they started
    beyond          the same in lengths that 95 % of the vocabulary's vectors do not reach
    difference      mean |token - word| of the pictures, in units of mean |nothing - word|
    recognised      for token, word, nothing: how many of `n` pictures the judge recognises; empty: no judge
    obeyed          for token, word: how many show what the rest of the prompt asks for; empty: no probe
    """

    token: str
    word: str
    n: int
    cosine: float
    moved: float
    norm_ratio: float
    beyond: float
    difference: float
    recognised: dict[str, int] = field(default_factory=dict)
    obeyed: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> tuple[bool, str]:
        """Whether the token is worth using, and why, with the likely mend."""
        seen, kept = self.recognised, self.obeyed
        far, lost = self.norm_ratio > LONG and self.beyond > 1, seen and seen["token"] <= seen["nothing"]
        faults = (
            (self.moved == 0, "nothing was learned: no step was better than its start; try a lower learning"
             " rate, or more and other pictures"),
            (self.difference < SAME, "nothing was learned: give it more steps or a higher learning rate"),
            (self.norm_ratio < SHORT, "its vectors are next to zero, so it says nothing: train it again"),
            (far, "longer than nearly all words, it drowns the prompt: learn it with keep_norm"),
            (lost, "the emotion is not in it: check the pictures, give pairs, or start from a nearer word"),
            (kept and kept["token"] < OBEYED * kept["word"], "it drowns the rest of the prompt: fewer"
             " vectors, or pairs, or a lower learning rate"),
            (seen and seen["token"] < seen["word"], "the word itself does better: more pictures of different"
             " people, or pairs"),
        )  # fmt: skip
        for fault, why in faults:
            if fault:
                return False, why
        return True, "it learned" + ("" if seen else ", as far as can be told without a judge")

    def lines(self) -> list[str]:
        """The report in plain text, one finding a line, the verdict last."""
        counts = lambda of, sides: ", ".join(f"{side} {of[side]}" for side in sides)  # noqa: E731
        good, why = self.verdict
        seen = (
            f"emotion recognised, of {self.n} pictures each: {counts(self.recognised, SIDES)}"
            if self.recognised
            else "emotion recognised: not judged; it names no emotion (train it with --emotion), or one that"
            " no judge here knows"
        )
        kept = (
            f"rest of the prompt obeyed, of {self.n} pictures each: {counts(self.obeyed, SIDES[:2])}"
            if self.obeyed
            else "rest of the prompt obeyed: no probe here sees what this model draws"
        )
        lines = (
            f"distance from {self.word!r}: cosine {self.cosine:.3f}, moved {self.moved:.2f} lengths",
            f"pictures differ from the word's by {self.difference:.2f} of what the word itself changes"
            f" (n={self.n})",
            f"length of its vectors: {self.norm_ratio:.2f} times that of {self.word!r}",
            seen,
            kept,
            f"verdict: {'good' if good else 'not good'}; {why}",
        )
        return [f"{self.token}  {line}" for line in lines]


@torch.no_grad()
def check_token(
    backbone: Backbone,
    token: Token,
    word: str,
    *,
    start: Token | None = None,
    recognise: Recognise | None = None,
    probe: Probe | None = None,
    descriptions: Sequence[str] = ("person",),
    n: int = 8,
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
) -> tuple[Report, Tensor]:
    """Compare `token` with `word` and with no word: the report, and the pictures (3, n, 3, S, S) it rests on.

    start         where the token started; default: the vectors of `word`
    descriptions  who is to be seen, in turn: "woman with red hair", ...
    n             pictures a side; all sides begin with the same n noises
    """
    start = start or splice.vectors_of_words(backbone, token.name, word, vectors=len(token))
    who = [descriptions[i % len(descriptions)] for i in range(n)]
    with splice.learned_token(backbone, token):
        # Token and word get the same article, so that they differ in nothing else.
        sides = ((token.name, word), (word, word), ("", ""))
        texts = [[fill_template(TEMPLATE, said, person, like=like) for person in who] for said, like in sides]
        made = [sample_pictures(backbone, part, num_inference_steps, guidance_scale, seed) for part in texts]
    pictures = torch.stack(made)
    shown = dict(zip(SIDES, made, strict=True))
    seen = {side: int(recognise(rows).sum()) for side, rows in shown.items()} if recognise else {}
    kept = {}
    for side in SIDES[:2] if probe else ():
        hits = (probe(picture[None], text) for picture, text in zip(shown[side], who, strict=True))
        kept[side] = sum(int(hit.sum()) for hit in hits)
    apart = (pictures - pictures[1]).abs().mean((1, 2, 3, 4))
    now, then = token.vectors, start.vectors
    report = Report(
        token.name,
        word,
        n,
        cosine=float(torch.cosine_similarity(now, then, dim=1).mean()),
        moved=float(((now - then).norm(dim=1) / then.norm(dim=1)).mean()),
        norm_ratio=float(now.norm(dim=1).mean() / then.norm(dim=1).mean()),
        beyond=float(now.norm(dim=1).mean() / splice.lengths(backbone)[0][2]),
        difference=float(apart[0] / apart[2].clamp(min=1e-12)),
        recognised=seen,
        obeyed=kept,
    )
    return report, pictures


@torch.no_grad()
def check_lora(
    backbone: Backbone,
    change: Lora,
    *,
    recognise: Recognise | None = None,
    probe: Probe | None = None,
    descriptions: Sequence[str] = ("person",),
    n: int = 8,
    num_inference_steps: int = 20,
    guidance_scale: float = 3.0,
    seed: int = 0,
) -> tuple[dict[str, dict[str, float]], Tensor]:
    """Draw n people with and without a LoRA, from the same noises, and count: {row: {finding: value}}.

    Rows are its scales -1, 0, 1, 2, and "others": scale 1 without the word it was trained with. Findings:
    `emotion` and `prompt`, how many of n show the feeling and what the rest of the prompt asks for, as far
    as there are eyes for it; `moved`, mean |difference| to scale 0. Returned with the pictures
    (rows, n, 3, S, S)."""
    who = [descriptions[i % len(descriptions)] for i in range(n)]
    word = ADJECTIVES.get(change.emotion, change.emotion)
    asked = {str(scale): (scale, word) for scale in (-1, 0, 1, 2)} | {"others": (1, "")}
    drawn = {}
    for row, (scale, said) in asked.items():
        texts = [fill_template(change.template or TEMPLATE, said, person) for person in who]
        with lora(backbone, change, float(scale)):
            drawn[row] = sample_pictures(backbone, texts, num_inference_steps, guidance_scale, seed)
    findings = {}
    for row, made in drawn.items():
        found = {"moved": float((made - drawn["0"]).abs().mean())}
        if recognise:
            found["emotion"] = int(recognise(made).sum())
        if probe:
            hits = (probe(picture[None], text) for picture, text in zip(made, who, strict=True))
            found["prompt"] = sum(int(hit.sum()) for hit in hits)
        findings[row] = found
    return findings, torch.stack(list(drawn.values()))


@torch.no_grad()
def sample_pictures(
    backbone: Backbone, prompts: Sequence[str], num_inference_steps: int, guidance_scale: float, seed: int
) -> Tensor:
    """A picture for each prompt, (B, 3, S, S) in [-1, 1]; picture i always starts from noise i."""
    side = backbone.size // backbone.stride
    shape = (backbone.unet.config.in_channels, side, side)
    noise = torch.stack(
        [torch.randn(shape, generator=generator(seed, "check", i)) for i in range(len(prompts))]
    )
    walk = Trajectory(backbone.timesteps(num_inference_steps), start=noise)
    return backbone.decode(denoise(backbone.guided(backbone.embed(prompts), guidance_scale), walk))
