"""Networks that know photographs, by tiny files of the same form: judges by label names, faces, identity."""

import json

import numpy as np
import onnx_standins
import pytest
import torch
from judge_standins import judge_folder
from PIL import Image
from skimage import data

from emolib import images
from emolib.cli import faces as faces_cli
from emolib.cli.main import main
from emolib.evaluation import measure
from emolib.judges import emotion, faces, identity, networks
from emolib.runtime import InputError

FER, SFACE, YUNET = (networks.ONNX[networks.NAMES[name]] for name in ("photo-guide", "sface", "yunet"))
ORDERS = [  # of classifiers on the Hub, and of OpenCV's
    "angry disgust fear happy neutral sad surprise",
    "sad disgust angry neutral fear surprise happy",
    "angry contempt disgust fear happy neutral sad surprise",
    "neutral happiness surprise sadness anger disgust fear contempt",
    "anger contempt disgust fear happy neutral sadness surprise",
    "Angry Disgusted Fearful Happy Sad Surprised Neutral",
    "neutral happy sad surprise fear disgust anger",
]
MEANING = {"ang": "anger", "con": "contempt", "dis": "disgust", "fea": "fear", "hap": "happiness"}
MEANING |= {"neu": "neutral", "sad": "sadness", "sur": "surprise"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hub cache; gives what puts a repository's file into it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def place(name, file):
        folder = tmp_path / "hub" / f"models--{networks.NAMES[name].replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        return folder / "snapshots" / "abc" / file

    return place


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut())


@pytest.mark.parametrize("order", ORDERS)
def test_labels_are_mapped_by_name_in_whatever_order(order, tmp_path):
    names = order.split()
    judge_folder(tmp_path, outputs=len(names), names=names)
    (tmp_path / "calibration.json").unlink()
    judge = emotion.load_judge(tmp_path, device="cpu")
    assert judge.labels == tuple(MEANING[name[:3].casefold()] for name in names)
    assert judge.sure == emotion.UNCALIBRATED_SURE
    assert judge.labels[judge.find_label("amusement")] == judge.labels[judge.find_label("contentment")]
    assert judge.labels[judge.find_label("contentment")] == "happiness"
    assert judge.labels[judge.find_label("anger")] == "anger" and judge.find_label("awe") is None


def test_labels_that_mean_nothing_are_listed_with_the_way_to_map_them(tmp_path):
    judge_folder(tmp_path, outputs=2, names=["LABEL_0", "LABEL_1"])
    (tmp_path / "calibration.json").unlink()
    with pytest.raises(InputError, match=r"LABEL_0, LABEL_1\) name no two emotions; say in calibration.json"):
        emotion.load_judge(tmp_path, device="cpu")
    facts = {"temperature": 1, "labels": ["anger", "neutral"]}
    (tmp_path / "calibration.json").write_text(json.dumps(facts))
    assert emotion.load_judge(tmp_path, device="cpu").labels == ("anger", "neutral")


def test_photographs_have_a_guide_and_a_heldout_judge_that_differ(cache):
    onnx_standins.pooled(cache("photo-guide", FER), 7)
    guide = emotion.load_judge("photo-guide", device="cpu")
    assert (guide.role, guide.labels, guide.aligned) == ("guide", emotion.FER_LABELS, True)
    by_id = emotion.load_judge(networks.NAMES["photo-guide"], device="cpu")
    assert by_id.role == "guide" and torch.equal(
        *(j(torch.zeros(1, 3, 112, 112)).probs for j in (guide, by_id))
    )
    folder = judge_folder_in_cache(cache("photo-heldout", "config.json"))
    heldout = emotion.load_judge("photo-heldout", device="cpu")
    assert heldout.role == "heldout" and type(heldout.network) is not type(guide.network) and folder


def judge_folder_in_cache(config):
    names = ORDERS[0].split()
    network = judge_folder(config.parent, "vit", outputs=7, names=names)
    (config.parent / "calibration.json").unlink()
    return network


def test_an_onnx_judge_sees_what_its_file_computes(tmp_path):
    weights = np.random.default_rng(1).standard_normal((147, 7)).astype(np.float32)
    onnx_standins.pooled(tmp_path / FER, 7, weights=weights)
    judge = emotion.load_judge(tmp_path, device="cpu")
    pictures = torch.rand(3, 3, 112, 112) * 2 - 1
    means = torch.nn.functional.avg_pool2d(pictures, 16).flatten(1)
    verdict, features = judge.describe(pictures)
    torch.testing.assert_close(verdict.probs, (means @ torch.from_numpy(weights)).softmax(1))
    assert features.shape == (3, 7) and verdict.valence.isnan().all()


def test_a_transformers_folder_may_hold_onnx_in_place_of_safetensors(tmp_path):
    judge_folder(tmp_path, outputs=7, names=ORDERS[1].split())
    (tmp_path / "calibration.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    onnx_standins.pooled(tmp_path / "model.onnx", 7, side=32, cell=8, name="pixel_values")
    judge = emotion.load_judge(tmp_path, device="cpu")
    assert judge.labels[0] == "sadness" and not judge.aligned
    assert judge(torch.zeros(2, 3, 50, 50)).probs.shape == (2, 7)


@pytest.mark.parametrize(("angle", "scale"), [(0, 1), (25, 1), (-50, 3), (0, 0.5)])
def test_landmarks_are_laid_on_the_five_points(angle, scale):
    """Spots at the landmarks of a picture lie where the template has them, whatever the turn and size."""
    turn = scale * np.exp(1j * np.radians(angle))
    points = (faces.ALIGNED @ [1, 1j] - 56 - 56j) * turn + 300 + 260j
    points = np.stack([points.real, points.imag], axis=1)
    y, x = np.mgrid[:600, :600] + 0.5
    spots = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (4 * scale) ** 2)) for u, v in points)
    picture = Image.fromarray((255 * spots.clip(0, 1)).astype(np.uint8)).convert("RGB")
    seen = np.asarray(faces.align_face(picture, points).convert("L")).astype(float)
    y, x = np.mgrid[:112, :112] + 0.5
    for u, v in faces.ALIGNED:
        near = np.hypot(x - u, y - v) < 8
        weight = seen[near]
        centre = (x[near] @ weight / weight.sum(), y[near] @ weight / weight.sum())
        assert np.hypot(*np.subtract(centre, (u, v))) < 0.5


def test_a_box_without_landmarks_is_laid_about_as_its_landmarks_would_be(astronaut):
    (face,) = faces.find_faces(astronaut) if faces.has_centerface() else pytest.skip("no CenterFace")
    guess = faces.find_points(faces.Face(face.box))
    assert np.abs(guess - faces.find_points(face)).max() < 0.12 * (face.box[2] - face.box[0])


def test_an_evaluation_lays_faces_on_the_points_that_its_judge_wants(cache, astronaut):
    onnx_standins.pooled(cache("photo-guide", FER), 7)
    judge = emotion.load_judge("photo-guide", device="cpu")
    laid, crop = measure.lay_faces(judge), astronaut.crop((150, 50, 290, 190))
    aligned = faces.align_face(crop, faces.FRAMED * 140)
    torch.testing.assert_close(laid(images.to_tensor(crop)).probs, judge(images.to_tensor(aligned)).probs)
    assert not torch.equal(judge(images.to_tensor(crop)).probs, judge(images.to_tensor(aligned)).probs)


def test_an_evaluation_can_ask_sface_who_is_who(cache, astronaut):
    onnx_standins.pooled(cache("sface", SFACE), 128)
    box = (170, 60, 275, 175)
    embed, threshold, about = measure.load_photo_identity("sface")
    network = identity.load_face_network()
    assert (threshold, about) == (network.threshold, "sface")
    whole = images.to_tensor(astronaut)
    rows = embed(torch.cat([whole, -whole]), np.array([box, box]))
    torch.testing.assert_close(rows[:1], network.embed_faces(astronaut, [faces.Face(box)]))
    assert not torch.equal(rows[0], rows[1])


def test_sface_embeds_bytes_in_red_green_blue(cache, astronaut):
    onnx_standins.pooled(cache("sface", SFACE), 128)
    network = identity.load_face_network()
    face = faces.Face(
        (170, 60, 275, 175), landmarks=((204, 101), (248, 104), (222, 125), (207, 142), (243, 144))
    )
    (row,) = network.embed_faces(astronaut, [face])
    aligned = torch.from_numpy(np.asarray(faces.align_face(astronaut, face.landmarks)).copy()).float()
    weights = np.random.default_rng(0).standard_normal((147, 128)).astype(np.float32)
    means = torch.nn.functional.avg_pool2d(aligned.permute(2, 0, 1)[None], 16).flatten(1)
    torch.testing.assert_close(row, (means @ torch.from_numpy(weights))[0], rtol=1e-3, atol=0.05)
    assert network.threshold == 0.363 and row.shape == (128,)


@pytest.mark.parametrize("size", [("height", "width"), (640, 640)])
def test_yunet_finds_boxes_and_landmarks(tmp_path, monkeypatch, size):
    path = onnx_standins.yunet(tmp_path / YUNET, size)
    monkeypatch.setattr(networks, "require_onnx", lambda name: path)
    picture = Image.new("RGB", (640, 480), "black")
    picture.paste("red", (320, 192, 352, 224))  # one cell, its middle at (336, 208)
    (face,) = faces.find_by_yunet(picture)
    expected = 32 * np.array([(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)]) + (336, 208)
    np.testing.assert_allclose(face.landmarks, expected, atol=1)
    assert face.score == pytest.approx(1, abs=0.01)


def test_without_centerface_yunet_looks_where_it_is(cache, monkeypatch):
    monkeypatch.setattr(faces, "has_centerface", lambda: False)
    onnx_standins.yunet(cache("yunet", YUNET))
    picture = Image.new("RGB", (640, 480), "black")
    picture.paste("red", (320, 192, 352, 224))
    assert len(faces.find_faces(picture)) == 1


def test_a_judge_whose_processor_crops_is_shown_a_wider_crop(tmp_path):
    """So that what it gets to see is the face as every judge is shown it."""
    from transformers import ConvNextImageProcessor

    judge_folder(tmp_path)
    whole = emotion.load_judge(tmp_path, device="cpu")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.5).save_pretrained(tmp_path)
    cropping = emotion.load_judge(tmp_path, device="cpu")
    y, x = np.mgrid[:400, :400]
    picture = Image.fromarray(np.stack([x * 0.6, y * 0.6, (x + y) * 0.3], -1).astype(np.uint8))
    face = [faces.Face((150, 150, 250, 250))]
    shown = [judge.prepare(faces.cut_faces(picture, face, judge))[0, 0] for judge in (whole, cropping)]
    assert shown[0].shape == shown[1].shape == (32, 32) and cropping.prepare.share == 0.5
    span = [float(pixels[:, -1].mean() - pixels[:, 0].mean()) / float(pixels.std()) for pixels in shown]
    assert span[0] == pytest.approx(span[1], rel=0.1)


@pytest.mark.parametrize("name", ["photo-heldout", "sface", "yunet", "someone/fer"])
def test_what_is_not_here_says_how_to_fetch_it(name, cache):
    load = {"sface": identity.load_face_network, "yunet": networks.require_onnx}.get(name, emotion.load_judge)
    with pytest.raises(InputError, match=f"fetch it first: emolib judge fetch {name}"):
        load(name)


def test_offline_and_unasked_nothing_is_fetched(capsys, monkeypatch):
    assert main(["judge", "fetch", "photo-guide"]) == 2
    said = capsys.readouterr().err
    assert "opencv/facial_expression_recognition cannot be fetched" in said and said.count("\n") == 1


def test_size_and_licence_are_said_before_a_download(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo

    files = {"config.json": 1000, "model.safetensors": 343_000_000, "pytorch_model.bin": 9, "README.md": 7}
    info = ModelInfo(
        id="a/b",
        card_data={"license": "apache-2.0"},
        siblings=[{"rfilename": k, "size": v} for k, v in files.items()],
    )
    asked, fetched = [], []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repository, **_: info)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: fetched.append(allow_patterns) or tmp_path,
    )
    assert networks.fetch_network("a/b", lambda offer: asked.append(offer)) is None and not fetched
    assert asked == ["a/b: 343.0 MB, licence: apache-2.0"]
    assert networks.fetch_network("a/b", lambda offer: True) == tmp_path
    assert fetched == [["config.json", "model.safetensors"]]


@pytest.mark.parametrize(("bias", "says"), [(9.0, "anger"), (0.0, None)])
def test_a_photographs_feeling_is_told_only_where_its_judge_is_sure(cache, astronaut, bias, says):
    from emolib.editors.person import Person
    from emolib.editors.recipe import Recipe

    recipe, face = Recipe((Person((170, 60, 275, 175), "awe"),)), [faces.Face((170, 60, 275, 175))]
    assert faces_cli.guess_sources(recipe, astronaut, face, "cpu") == recipe  # no judge of photographs: none
    weights = np.zeros((147, 7))
    weights[:, 0] = -bias  # what is dark is angry: the black rim below
    onnx_standins.pooled(cache("photo-guide", FER), 7, weights=weights)
    dark = Image.new("RGB", (512, 512))
    (person,) = faces_cli.guess_sources(recipe, dark, face, "cpu").people
    assert person.source_emotion == says


def test_faces_of_a_photograph_are_numbered_without_a_judge(cache, tmp_path, capsys, astronaut):
    astronaut.save(tmp_path / "a.png")
    assert (
        main(
            [
                "faces",
                str(tmp_path / "a.png"),
                "-o",
                str(tmp_path / "b.png"),
                "--json",
                str(tmp_path / "b.json"),
            ]
        )
        == 0
    )
    assert faces_cli.FETCH in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row["feelings"] == {}
