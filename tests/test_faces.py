"""The face finders on a photograph that scikit-image ships, on groups made of it, and on rendered people."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from emolib import images
from emolib.cli.main import main
from emolib.data import emofaces
from emolib.judges import faces

needs_centerface = pytest.mark.skipif(not faces.has_centerface(), reason="CenterFace is not installed")
FINDERS = [
    pytest.param(faces.find_by_centerface, marks=needs_centerface, id="centerface"),
    pytest.param(faces.find_by_cascade, id="cascade"),
]
EYES = np.array([[204, 101], [248, 104]])  # of the astronaut, read off the picture


@pytest.fixture(scope="module")
def astronaut():
    """Eileen Collins, 512 x 512; her face is about [170, 60] to [275, 175]."""
    return Image.fromarray(data.astronaut())


def covers(face, x, y):
    x0, y0, x1, y1 = face.box
    return x0 < x < x1 and y0 < y < y1


@pytest.mark.parametrize("find", FINDERS)
def test_one_face_in_a_photograph(astronaut, find):
    (face,) = find(astronaut)
    assert covers(face, 222, 115)
    assert 80 < face.box[2] - face.box[0] < 130


@pytest.mark.parametrize("find", FINDERS)
def test_nobody_in_textures_and_things(find):
    for picture in (data.brick()[::2, ::2], data.rocket()[::2, ::2]):
        assert find(Image.fromarray(picture).convert("RGB")) == []


@pytest.mark.parametrize("find", FINDERS)
def test_rendered_people_whose_faces_fill_the_picture(find):
    people, n = emofaces.portraits("val"), 0
    for identity in people.identities[:12]:
        boxes = [face.box for face in find(people.image(identity, "neutral"))]
        n += len(boxes) == 1 and all(0 <= value <= 96 for value in boxes[0])
    assert n >= 10


@needs_centerface
def test_a_face_that_fills_a_large_picture_is_found_once(astronaut):
    (face,) = faces.find_faces(astronaut.crop((182, 58, 270, 178)).resize((898, 1224)))
    assert covers(face, 408, 560)


def test_people_from_left_to_right_in_a_tensor(astronaut):
    scene = Image.new("RGB", (1200, 512), "gray")
    scene.paste(astronaut.crop((0, 0, 500, 512)), (700, 0))
    scene.paste(astronaut.resize((384, 384)), (100, 100))
    first, second = faces.find_faces(images.to_tensor(scene))
    assert covers(first, 266, 186) and covers(second, 922, 115)
    assert first.box[2] - first.box[0] < second.box[2] - second.box[0]


@needs_centerface
@pytest.mark.parametrize("angle", [-35, 0, 35])
def test_landmarks_follow_a_tilted_head(astronaut, angle):
    (face,) = faces.find_faces(astronaut.rotate(angle, Image.Resampling.BICUBIC))
    turn = np.radians(angle)  # anticlockwise as seen, about the middle
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    expected = (EYES - 255.5) @ rotation.T + 255.5
    assert np.abs(np.array(face.eyes) - expected).max() < 5
    across = np.subtract(*face.eyes[::-1])
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(-angle, abs=8)


@needs_centerface
def test_fifty_faces_some_at_the_border(astronaut):
    """Heads of 46 px in a picture of 6 megapixels, the outer ones cut off."""
    head = astronaut.crop((140, 20, 310, 220)).resize((85, 100), Image.Resampling.LANCZOS)
    crowd = Image.new("RGB", (2828, 2121), "slategray")
    places = [(x, y) for y in range(-8, 2121, 505) for x in range(-14, 2828, 309)]
    for place in places:
        crowd.paste(head, place)
    people = faces.find_faces(crowd)
    assert len(places) == len(people) == 50
    assert all(0 <= f.box[0] < f.box[2] <= 2828 and 0 <= f.box[1] < f.box[3] <= 2121 for f in people)


@needs_centerface
def test_scenes_of_rendered_people():
    scenes, n, right = emofaces.scenes(), 0, 0
    for number in scenes.ids[:6]:
        scene = scenes.get(number)
        people = faces.find_faces(scene.image)
        assert len(people) <= len(scene.people)
        for person in scene.people:
            x0, y0, x1, y1 = person.box
            near = [f for f in people if covers(f, (x0 + x1) / 2, (y0 + y1) / 2)]
            right += len(near) == 1
            n += 1
    assert right >= 0.9 * n


def test_the_command_draws_and_lists_them(astronaut, tmp_path, capsys):
    astronaut = astronaut.resize((384, 384))  # small as a render, so that the guide guesses
    astronaut.save(tmp_path / "crew.png")
    output, listed = tmp_path / "faces.png", tmp_path / "faces.json"
    command = ["faces", str(tmp_path / "crew.png"), "-o", str(output), "--device", "cpu"]
    assert main([*command, "--json", str(listed)]) == 0
    assert capsys.readouterr().out.split() == [str(output), str(listed)]
    drawn = np.asarray(images.open_image(output)) != np.asarray(astronaut)
    assert drawn.any() and not drawn[225:].any()
    (row,) = json.loads(listed.read_text())
    assert set(row) == {"number", "box", "landmarks", "score", "feelings"} and row["number"] == 1
    assert row["box"][0] < 166 < row["box"][2] and all(type(value) is int for value in row["box"])
    shares = list(row["feelings"].values())
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("output", ["wall.png", "faces.bmp", "none/faces.png"])
def test_outputs_that_cannot_be(tmp_path, output, capsys):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "wall.png")
    assert main(["faces", str(tmp_path / "wall.png"), "-o", str(tmp_path / output)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_nobody_there_is_said_in_one_line(tmp_path, capsys):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "wall.png")
    assert main(["faces", str(tmp_path / "wall.png"), "-o", str(tmp_path / "faces.png")]) == 2
    said = capsys.readouterr().err
    assert "wall.png: no face found" in said and "--box" in said and said.count("\n") == 1
    assert not (tmp_path / "faces.png").exists()
    assert main(["faces", str(tmp_path), "-o", str(tmp_path / "faces.png")]) == 2
