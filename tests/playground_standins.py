"""A picture of two blobs, edits of it that need no model, and the page that shows them."""

import nbformat
import torch
from PIL import Image

from emolib import images
from emolib.course import pages
from emolib.editors.person import Person
from emolib.editors.recipe import Recipe
from emolib.playground import pictures, still
from emolib.playground.pictures import Picture

EMOTIONS = ("amusement", "awe", "anger")
STRENGTHS = (0.5, 1.0)


def blobs(name="blobs"):
    """64 x 40, two square "faces" on grey."""
    image = Image.new("RGB", (64, 40), "grey")
    image.paste("tan", (6, 8, 26, 28))
    image.paste("sienna", (38, 8, 58, 28))
    people = (Person((6, 8, 26, 28), description="man"), Person((38, 8, 58, 28), description="woman"))
    return Picture(name, image, people)


def tinted(picture, k, emotion, strength):
    """The picture with face k in a colour of its own for every emotion and strength."""
    x0, y0, x1, y1 = picture.people[k].box
    pixels = picture.pixels
    value = -0.9 + 0.4 * EMOTIONS.index(emotion) + 0.2 * strength
    pixels[..., y0:y1, x0:x1] = torch.tensor([value, k, 1 - strength]).view(3, 1, 1)
    return pixels


def frames(picture):
    """One frame for every person, emotion and strength."""
    made = []
    for k, person in enumerate(picture.people):
        for emotion in EMOTIONS:
            for strength in STRENGTHS:
                patch = images.crop(tinted(picture, k, emotion, strength), person.box)
                seen = [0.0] * 9
                seen[1 + EMOTIONS.index(emotion)] = strength
                made.append(still.Frame(k, emotion, strength, patch, seen, (20.0 + k, 25.0)))
    return made


def still_html():
    """The playground of these frames; no judge is asked."""
    picture = blobs()
    seen, pictures.probabilities = pictures.probabilities, lambda *_: [1.0] + [0.0] * 8
    try:
        return still.page(
            picture, Recipe(picture.people, "img2img", margin=0.0), frames(picture), "Made of two colours"
        )
    finally:
        pictures.probabilities = seen


def still_page():
    """The playground in an exported notebook."""
    output = nbformat.v4.new_output("display_data", {"text/html": still_html()})
    cell = nbformat.v4.new_code_cell("play", outputs=[output])
    return pages.render_page(nbformat.v4.new_notebook(cells=[cell]), ".", "playground").html
