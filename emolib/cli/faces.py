"""`emolib faces`: show the people that `emolib edit` would find, with their numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emolib import runtime
from emolib.cli.fields import add_common
from emolib.runtime import InputError

if TYPE_CHECKING:
    from PIL import Image

    from emolib.judges.faces import Face

SURE = 0.5
"""A guess is marked "not sure" where the judge gives its first emotion a smaller probability."""
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
    feelings = guess_feelings(image, faces, args.device)
    images.save_image(draw_faces(image, faces, feelings), args.output)
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


def guess_feelings(image: Image.Image, faces: Sequence[Face], device: str) -> list[dict[str, float]]:
    """Guess what each face shows: the guide judge's probabilities by emotion, the largest first."""
    import torch

    from emolib import images
    from emolib.data.framing import FACE_MARGIN
    from emolib.editors.person import Person, upright
    from emolib.judges import emotion

    judge, crops = emotion.load_judge("guide", device=device), []
    for face in faces:
        box = images.square_box(face.box, image.height, image.width, margin=FACE_MARGIN)
        piece = images.to_tensor(image.crop(box))  # the rest of a large photograph never becomes a tensor
        whole = (0, 0, *piece.shape[:1:-1])
        crops.append(images.resize(upright(piece, Person(face.box, eyes=face.eyes), whole), judge.size))
    with torch.no_grad():
        rows = judge(torch.cat(crops)).probs.tolist()
    return [
        {judge.labels[i]: round(row[i], 4) for i in sorted(range(len(row)), key=lambda i: -row[i])}
        for row in rows
    ]


def draw_faces(
    image: Image.Image, faces: Sequence[Face], feelings: Sequence[dict[str, float]]
) -> Image.Image:
    """Draw numbers, boxes, landmarks and guesses on a copy of the picture."""
    from PIL import ImageDraw, ImageFont

    drawn = image.copy()
    pen, line = ImageDraw.Draw(drawn), max(1, max(image.size) // 500)
    font = ImageFont.load_default(size=max(10, max(image.size) // 60))
    for number, (face, guess) in enumerate(zip(faces, feelings, strict=True), 1):
        emotion, share = next(iter(guess.items()))
        text = f"{number} {emotion}" + ("" if share >= SURE else ", not sure")
        pen.rectangle(face.box, outline=BOX, width=line)
        for x, y in face.landmarks or ():
            pen.ellipse((x - line, y - line, x + line, y + line), fill=POINT)
        left, top, right, bottom = pen.textbbox(face.box[:2], text, font=font, anchor="lb")
        below = max(0, -top)  # into the box, where the picture ends above it
        pen.rectangle((left - line, top + below, right + line, bottom + below), fill=BOX)
        pen.text((face.box[0], face.box[1] + below), text, fill=TEXT, font=font, anchor="lb")
    return drawn
