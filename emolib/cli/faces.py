"""`emolib faces`: show the people that `emolib edit` would find, with their numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from emolib import runtime
from emolib.cli.fields import add_common, tell
from emolib.diffusion.presets import is_known
from emolib.runtime import InputError

if TYPE_CHECKING:
    from PIL import Image

    from emolib.editors.recipe import Recipe
    from emolib.images import Box
    from emolib.judges.emotion import Judge
    from emolib.judges.faces import Face

RENDERED = 384
"""The longer side of EmoFaces' largest pictures, px: what is larger is a photograph to whoever judges it."""
FETCH = "emolib judge fetch photo-guide"
BOX, POINT, TEXT = "#39ff88", "#ff3b6b", "black"


def add_parser(commands) -> None:
    """Add `emolib faces` to the command line's commands."""
    command = commands.add_parser(
        "faces", description="Find the people in a picture and number them as `emolib edit --person N=` does."
    )
    add = command.add_argument
    add("picture", metavar="PICTURE", help="a picture file: PNG, JPEG, WebP, GIF, BMP, TIFF")
    add("-o", "--output", required=True, metavar="FILE", help="where to draw them: .png, .jpg or .webp")
    add("--json", metavar="FILE", help="write a list of number, box [x0, y0, x1, y1] in pixels, landmarks"
        " (eyes, nose tip, mouth corners), score, and feelings with their probabilities")  # fmt: skip
    add_common(add, "device")
    command.set_defaults(run=show_faces)


def show_faces(args: argparse.Namespace) -> int:
    """`emolib faces`: find, guess, draw, write."""
    runtime.check_device(args.device)
    from emolib import images

    images.check_edit(args.output, args.picture)
    if args.json:
        runtime.check_output(args.json, [args.picture], suffix=".json")
    image = images.open_image(args.picture)
    faces = find_everybody(image, args.picture)
    judge = choose_judge(image, args.device)
    if judge is None:
        tell(f"{args.picture}: no feelings are guessed without a judge of photographs: {FETCH}")
    feelings = guess_feelings(image, faces, judge) if judge else [{}] * len(faces)
    images.save_image(draw_faces(image, faces, feelings, judge.sure if judge else 1.0), args.output)
    if args.json:
        rows = [
            {"number": k, "box": f.box, "landmarks": f.landmarks, "score": f.score, "feelings": guess}
            for k, (f, guess) in enumerate(zip(faces, feelings, strict=True), 1)
        ]
        runtime.write_json(args.json, rows)
    for path in filter(None, (args.output, args.json)):
        print(path)
    return 0


def find_everybody(image: Image.Image, name: str) -> list[Face]:
    """Find the faces in the picture of that name. InputError: nobody is found."""
    from emolib.judges import faces

    people = faces.find_faces(image)
    if not people:
        hint = "" if faces.has_centerface() else f" ({faces.HINT})"
        raise InputError(f"{name}: no face found; say where one is: emolib edit --box X0,Y0,X1,Y1{hint}")
    return people


def guess_feelings(image: Image.Image, faces: Sequence[Face], judge: Judge) -> list[dict[str, float]]:
    """Guess what each face shows: a judge's probabilities by emotion, the largest first."""
    from emolib.judges.faces import cut_faces

    rows = judge(cut_faces(image, faces, judge)).probs.tolist()
    return [
        {judge.labels[i]: round(row[i], 4) for i in sorted(range(len(row)), key=lambda i: -row[i])}
        for row in rows
    ]


def choose_judge(image: Image.Image, device: str) -> Judge | None:
    """Load the judge that knows such pictures: the guide for what is no larger than EmoFaces' pictures, else
    the guide of photographs; None where that has not been fetched."""
    from emolib.judges import emotion, networks

    if max(image.size) <= RENDERED:
        return emotion.load_judge("guide", device=device)
    return emotion.load_judge("photo-guide", device=device) if networks.find_onnx("photo-guide") else None


def guess_sources(recipe: Recipe, image: Image.Image, faces: Sequence[Face], device: str) -> Recipe:
    """Fill in what a judge sees in the people who are to change, of a photograph only where it is sure and
    the model has a word for it: else their prompts name no emotion."""
    if max(image.size) <= RENDERED and recipe.preset.judge != "guide":
        return recipe
    judge = choose_judge(image, device)
    if judge is None:
        return recipe
    if judge.name == "guide":
        from emolib import images
        from emolib.editors.person import with_sources

        source, margin = images.to_tensor(image), recipe.settings["margin"]
        return replace(recipe, people=tuple(with_sources(source, recipe.people, judge, margin=margin)))
    people = []
    for person, guess in zip(recipe.people, guess_feelings(image, faces, judge), strict=True):
        label, share = next(iter(guess.items()))
        sure = person.emotion is not None and share >= judge.sure and is_known(recipe.model, label)
        label = recipe.preset.resolve_emotion(label) if sure else None
        people.append(replace(person, source_emotion=person.source_emotion or label))
    return replace(recipe, people=tuple(people))


def draw_faces(
    image: Image.Image, faces: Sequence[Face], feelings: Sequence[dict[str, float]], sure: float
) -> Image.Image:
    """Draw numbers, boxes, landmarks and guesses, from which probability `sure`, on a copy of the picture."""
    from PIL import ImageDraw, ImageFont

    drawn = image.copy()
    pen, line = ImageDraw.Draw(drawn), max(1, max(image.size) // 500)
    font = ImageFont.load_default(size=max(10, max(image.size) // 60))
    for number, (face, guess) in enumerate(zip(faces, feelings, strict=True), 1):
        emotion, share = next(iter(guess.items()), ("", 1.0))
        text = f"{number} {emotion}".strip() + ("" if share >= sure else ", not sure")
        pen.rectangle(face.box, outline=BOX, width=line)
        for x, y in face.landmarks or ():
            pen.ellipse((x - line, y - line, x + line, y + line), fill=POINT)
        left, top, right, bottom = pen.textbbox(face.box[:2], text, font=font, anchor="lb")
        below = max(0, -top)  # into the box, where the picture ends above it
        pen.rectangle((left - line, top + below, right + line, bottom + below), fill=BOX)
        pen.text((face.box[0], face.box[1] + below), text, fill=TEXT, font=font, anchor="lb")
    return drawn


def format_box(box: Box) -> str:
    """Write a box as it is typed."""
    return ",".join(map(str, box))
