"""FindingEmo: exact counts of the published package, and what its reader does with bad rows."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from emolib.data import findingemo
from emolib.data.addresses import address_fault, safe_path
from emolib.emotions.sets import PETALS, PLUTCHIK24
from emolib.runtime import InputError
from tests.bad_server import picture

needs_package = pytest.mark.skipif(
    find_spec("findingemo_light") is None,
    reason=f"the optional package {findingemo.PACKAGE} is not installed",
)

HEADER = "index,user,image_path,tags,age,valence,arousal,emotion,dec_factors,ambiguity,datetime"
ROWS = [
    '0,u1,/Run_1/Happy people park/a.jpg,Undefined,"Youth,Young Adults",2,4,Joy,FacialExpression,0,'
    "2023-09-01",
    "3,u2,/Run_2/Sad adults/b.png,NA,Undefined,-3,0,Grief,Undefined,6,2023-09-02 10:11:12.5",
    '4,u1,/Run_2/Sad adults/c.jpg,"Text,Watermark",Adults,0,6,Vigilance,"Context,Staging",3,2023-09-03',
]
URLS = [
    ("/Run_1/Happy people park/a.jpg", 2, "http://b.example/2.jpg"),
    ("/Run_1/Happy people park/a.jpg", 1, "https://a.example/1.jpg"),
    ("/Run_1/Happy people park/a.jpg", 3, "https://a.example/1.jpg"),
    ("/Run_2/Sad adults/b.png", 1, "images/b.png"),
    ("/Run_2/Sad adults/b.png", 2, 'http://x.example/b.png"><img title="b'),
    ("/Run_2/Lost/d.jpg", 1, "http://x.example/d.jpg"),
]


@pytest.fixture
def folder(tmp_path):
    def write(rows=ROWS, addresses=URLS, header=HEADER):
        (tmp_path / "annotations_single.ann").write_text("\n".join([header, *rows]) + "\n")
        listed = [{"rel_path": p, "idx_url": i, "url": u} for p, i, u in addresses]
        (tmp_path / "dataset_urls_exploded.json").write_text(json.dumps(listed))
        return tmp_path

    return write


def test_rows_become_typed(folder):
    f = findingemo.read_findingemo(folder()).frame
    assert f["path"].tolist() == [row.split(",")[2][1:] for row in ROWS]
    assert f["query"].tolist() == ["Happy people park", "Sad adults", "Sad adults"]
    assert f["tags"].tolist() == [(), ("NA",), ("Text", "Watermark")]
    assert f["ages"].tolist() == [("Youth", "Young Adults"), (), ("Adults",)]
    assert f["factors"].tolist() == [("FacialExpression",), (), ("Context", "Staging")]
    assert f["emotion"].tolist() == ["joy", "grief", "vigilance"]
    assert f["petal"].tolist() == ["joy", "sadness", "anticipation"]
    assert f["intensity"].tolist() == ["basic", "intense", "intense"] and f["intensity"].max() == "intense"
    assert f["annotator"].tolist() == [0, 1, 0]
    assert f["annotated"].dt.day.tolist() == [1, 2, 3]


def test_addresses_are_sorted_cleaned_and_counted(folder):
    data = findingemo.read_findingemo(folder())
    assert data.frame["urls"].tolist() == [("https://a.example/1.jpg", "http://b.example/2.jpg"), (), ()]
    assert data.frame["malformed_urls"].tolist() == [0, 2, 0]
    assert data.counts == {
        "pictures": 3,
        "annotators": 2,
        "with one url": 0,
        "with several urls": 1,
        "without a url": 2,
        "urls": 6,
        "malformed urls": 2,
        "url rows without an annotation": 1,
        "skipped rows": 0,
    }


def test_as_a_manifest(folder, tmp_path):
    data = findingemo.read_findingemo(folder())
    m = data.manifest()
    assert m.labels == PLUTCHIK24 and m.frame["emotion"].tolist() == ["joy", "grief", "vigilance"]
    np.testing.assert_allclose(m.frame["valence"], [2 / 3, -1, 0], rtol=1e-6)
    np.testing.assert_allclose(m.frame["arousal"], [1 / 3, -1, 1], rtol=1e-6)
    pictures = tmp_path / "pictures"
    (pictures / "Run_2" / "Sad adults").mkdir(parents=True)
    (pictures / "Run_2" / "Sad adults" / "c.jpg").write_bytes(picture("c"))
    present = data.manifest(pictures)
    assert present.frame["emotion"].tolist() == ["vigilance"] and present.image(0).size == (48, 48)
    with pytest.raises(InputError, match="emolib data download"):
        data.manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "row",
    [
        "9,u,/a/b/x.jpg,,,9,0,Joy,,0,2023-09-01",
        "9,u,/a/b/x.jpg,,,0,7,Joy,,0,2023-09-01",
        "9,u,/a/b/x.jpg,,,0,3,Happiness,,0,2023-09-01",
        "9,u,/a/b/x.jpg,,,none,3,Joy,,0,2023-09-01",
        "9,u,/a/b/x.jpg,,,1.5,3,Joy,,0,2023-09-01",
        "nine,u,/a/b/x.jpg,,,1,3,Joy,,0,2023-09-01",
    ],
)
def test_a_bad_row_is_refused_or_skipped(folder, row):
    with pytest.raises(InputError, match=r"annotations_single.ann: row 5: .*x.jpg"):
        findingemo.read_findingemo(folder([*ROWS, row]))
    data = findingemo.read_findingemo(folder([*ROWS, row]), on_error="skip")
    assert len(data) == 3 and data.counts["skipped rows"] == 1


def test_missing_and_broken_files_are_named(folder, tmp_path):
    (folder() / "dataset_urls_exploded.json").write_text('[{"url": 1}]')
    with pytest.raises(InputError, match="dataset_urls_exploded.json: not a readable list of addresses"):
        findingemo.read_findingemo(tmp_path)
    folder(header=HEADER.replace("arousal", "excitation"))
    with pytest.raises(InputError, match="lacks the column 'arousal'"):
        findingemo.read_findingemo(tmp_path)
    with pytest.raises(InputError, match="annotations_single.ann: this file is missing"):
        findingemo.read_findingemo(tmp_path / "nowhere")


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(findingemo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install findingemo-light"):
        findingemo.read_findingemo()


@pytest.fixture(scope="module")
def published():
    return findingemo.read_findingemo()


@needs_package
def test_published_counts(published):
    assert list(published.counts.values()) == [25869, 665, 15347, 10259, 263, 60554, 15, 12, 0]


@needs_package
def test_published_labels(published):
    f = published.frame
    assert f["index"].is_unique and f["path"].is_unique
    emotions = f["emotion"].value_counts().to_dict()
    assert emotions == {
        "joy": 3971, "interest": 2688, "serenity": 1972, "anticipation": 1780, "vigilance": 1433,
        "apprehension": 1400, "acceptance": 1388, "trust": 1145, "sadness": 1092, "ecstasy": 1083,
        "admiration": 1016, "annoyance": 1008, "anger": 985, "grief": 867, "pensiveness": 706, "fear": 679,
        "boredom": 587, "rage": 446, "distraction": 356, "terror": 322, "surprise": 311, "disgust": 248,
        "amazement": 221, "loathing": 165,
    }  # fmt: skip
    petals = f["petal"].value_counts()
    assert all(petals[petal] == sum(emotions[name] for name in names) for petal, names in PETALS.items())
    assert f["valence"].value_counts().sort_index().tolist() == [1870, 3029, 3570, 3403, 5804, 5141, 3052]
    assert f["arousal"].value_counts().sort_index().tolist() == [1412, 4577, 5397, 5133, 4524, 3025, 1801]
    assert f["ambiguity"].value_counts().sort_index().tolist() == [6106, 6447, 4775, 3739, 2458, 1548, 796]


@needs_package
@pytest.mark.parametrize(
    ("column", "counts"),
    [
        ("ages", {"Adults": 19457, "Young Adults": 7541, "Seniors": 5561, "Children": 4588, "Youth": 3460}),
        ("factors", {"FacialExpression": 16208, "BodyLanguage": 15601, "Context": 10874, "Staging": 5991,
                     "Neutral": 1641, "ConflictCtxtPerson": 1512}),
        ("tags", {"NoInteraction": 665, "BadQualityPhoto": 569, "Copyright": 357, "Text": 244, "NA": 120,
                  "Watermark": 95, "NoPeople": 34}),
    ],
)  # fmt: skip
def test_published_names(published, column, counts):
    assert published.frame[column].explode().value_counts().to_dict() == counts
    assert set(counts) == set(getattr(findingemo, column.upper()))


@needs_package
def test_published_names_make_distinct_files(published):
    files = [safe_path(path).lower() for path in published.frame["path"]]
    assert len(set(files)) == len(files)


def test_what_counts_as_an_address():
    for url in ("https://a.example/x.jpg", " http://a.example:8080/x y.jpg?é ", "http://[2606:2800::1]/x"):
        assert address_fault(url) is None
    for url, fault in {
        "": "empty",
        "images/x.jpg": "not http",
        "//a.example/x.jpg": "not http",
        "javascript:alert(1)": "not http",
        "http:///x.jpg": "no host",
        "http://a b/x.jpg": "no host",
        "http://a.example:99999/x": "Port",
        "http://[::1/x": "Invalid",
        'http://a.example/x.gif" data-src="http://b.example/y': "markup",
        "http://a.example/\r\nHost: b": "markup or control",
    }.items():
        assert fault in address_fault(url)


def test_safe_paths():
    for name, path in {
        "/Run_2/Sad adults/c.jpg": "Run_2/Sad adults/c.jpg",
        "../../etc/passwd": "etc/passwd",
        "a\\..\\b:c?.jpg": "a/b_c_.jpg",
        ".part/x.jpg": "_.part/x.jpg",
        "CON.jpg": "_CON.jpg",
        "x./ y .jpg": "x/y .jpg",
        "": "picture",
        "/..": "picture",
    }.items():
        assert safe_path(name) == path


def test_long_names_stay_distinct_and_keep_their_suffix():
    one, two = (safe_path("é" * 200 + f"{i}.jpg") for i in range(2))
    assert one != two and one.endswith(".jpg") and len(one.encode()) <= 150
