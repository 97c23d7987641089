"""Label sets, whose order must not drift; mapping matrices by their algebra; words and colours."""

import itertools

import numpy as np
import pytest

from emolib.emotions import colours, mappings, sets, words
from emolib.runtime import InputError


def test_orders_are_the_published_ones():
    emoset = "amusement awe contentment excitement anger disgust fear sadness"
    emoeditor = "amusement anger awe contentment disgust excitement fear sadness"
    wheel = "joy trust fear surprise sadness disgust anger anticipation"
    assert tuple(emoset.split()) == sets.MIKELS
    assert tuple(emoeditor.split()) == sets.MIKELS_ALPHABETICAL
    assert ("neutral", *emoset.split()) == sets.EMOFACES
    assert (*sets.EMOFACES, "surprise", "contempt") == sets.EMOFACES_ALL
    assert sets.EKMAN6 == ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    assert (*sets.EKMAN6, "contempt") == sets.EKMAN7
    assert tuple(wheel.split()) == sets.PLUTCHIK8


def test_every_set_has_distinct_labels_and_a_name():
    for name, order in sets.SETS.items():
        assert len(set(order)) == len(order)
        assert sets.labels(name) == order
    assert len(sets.PLUTCHIK24) == 24 and len(sets.DYADS) == 24


def test_permutation_undoes_the_alphabetical_order():
    scores = np.arange(8.0)
    p = sets.permutation(sets.MIKELS_ALPHABETICAL, sets.MIKELS)
    moved = scores[p]
    assert [sets.MIKELS_ALPHABETICAL[int(s)] for s in moved] == list(sets.MIKELS)
    back = sets.permutation(sets.MIKELS, sets.MIKELS_ALPHABETICAL)
    assert np.array_equal(moved[back], scores)
    # Reading one order as the other silently renames five of the eight; three happen to stay.
    swapped = [a for a, b in zip(sets.MIKELS, sets.MIKELS_ALPHABETICAL, strict=True) if a != b]
    assert swapped == ["awe", "contentment", "excitement", "anger", "disgust"]


@pytest.mark.parametrize("other", [("a",), sets.MIKELS[:7], sets.MIKELS + ("awe",), sets.EMOFACES])
def test_permutation_refuses_other_labels(other):
    with pytest.raises(ValueError, match="same labels"):
        sets.permutation(sets.MIKELS, other)


def test_opposites_are_an_involution_half_a_turn_away():
    for petal, opposite in sets.OPPOSITES.items():
        assert opposite != petal and sets.OPPOSITES[opposite] == petal
    pairs = {"joy": "sadness", "trust": "disgust", "fear": "anger", "surprise": "anticipation"}
    assert {k: sets.OPPOSITES[k] for k in pairs} == pairs


def test_dyads_are_all_pairs_that_are_not_opposite_each_once():
    steps = {"primary": 1, "secondary": 2, "tertiary": 3}
    pairs = set()
    for dyad in sets.DYADS.values():
        i, j = sets.PLUTCHIK8.index(dyad.first), sets.PLUTCHIK8.index(dyad.second)
        gap = min((i - j) % 8, (j - i) % 8)
        assert gap == steps[dyad.order]
        pairs.add(frozenset((i, j)))
    assert len(pairs) == 24  # 8 * 7 / 2 pairs, less the 4 opposite ones


def test_petal_and_intensity_of_the_24():
    assert [sets.petal(x) for x in ("serenity", "joy", "ecstasy", "rage")] == ["joy", "joy", "joy", "anger"]
    assert [sets.intensity(x) for x in sets.PETALS["fear"]] == ["mild", "basic", "intense"]
    for petal, shades in sets.PETALS.items():
        assert shades[1] == petal


def test_polarity_splits_four_and_four():
    assert [sets.POLARITY[x] for x in sets.MIKELS] == [1] * 4 + [-1] * 4


def test_bad_labels_are_named():
    with pytest.raises(InputError, match="unknown label 'happy'; known: amusement"):
        sets.index("happy")
    with pytest.raises(InputError, match="unknown emotion set 'mikel'; did you mean 'mikels'"):
        sets.labels("mikel")
    with pytest.raises(InputError, match="'love'"):
        sets.petal("love")


REACHED = [x for x in sets.SETS if x != "dyads"]


@pytest.mark.parametrize(("a", "b"), list(itertools.product(sets.SETS, REACHED)))
def test_rows_are_distributions_and_entries_tell_the_whole_matrix(a, b):
    m = mappings.mapping(a, b)
    assert m.rows == sets.labels(a) and m.columns == sets.labels(b)
    assert m.matrix.min() >= 0 and np.allclose(m.matrix.sum(axis=1), 1)
    rebuilt = np.zeros_like(m.matrix)
    for e in m.entries:
        assert e.kind in ("published", "ours") and e.note
        rebuilt[m.rows.index(e.source), m.columns.index(e.target)] += e.weight
    assert np.allclose(rebuilt, m.matrix)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(REACHED, REACHED)))
def test_a_word_in_both_sets_keeps_most_of_its_weight(a, b):
    m = mappings.mapping(a, b)
    for word in set(m.rows) & set(m.columns):
        row = m.matrix[m.rows.index(word)]
        assert row[m.columns.index(word)] == row.max()


@pytest.mark.parametrize("name", sets.SETS)
def test_a_set_maps_to_itself_by_the_identity(name):
    m = mappings.mapping(name, name)
    assert np.array_equal(m.matrix, np.eye(len(m.rows)))
    assert {e.kind for e in m.entries} == {"published"}


def test_petals_and_dyads_are_published_and_exact():
    m = mappings.mapping("plutchik24", "plutchik8")
    assert np.array_equal(m.matrix, np.kron(np.eye(8), np.ones((3, 1))))
    d = mappings.mapping("dyads", "plutchik8")
    assert np.array_equal(np.unique(d.matrix), [0, 0.5])
    assert {e.kind for e in (*m.entries, *d.entries)} == {"published"}
    assert "love -> trust 0.50 (published" in mappings.explain("dyads", "plutchik8", "love")


def test_what_is_ours_says_so():
    text = mappings.explain("plutchik24", "mikels", "serenity")
    assert text == "serenity -> contentment 1.00 (ours: joy split by arousal)"
    kinds = {e.source: e.kind for e in mappings.mapping("plutchik24", "mikels").entries}
    assert kinds["grief"] == kinds["fear"] == "published"  # a shade of a petal whose word both sets share
    assert kinds["boredom"] == kinds["joy"] == "ours"
    awe = [e for e in mappings.mapping("mikels", "plutchik8").entries if e.source == "awe"]
    assert [(e.target, e.kind) for e in awe] == [("fear", "published"), ("surprise", "published")]
    chain = mappings.mapping("dyads", "mikels")
    by = {(e.source, e.target): e.kind for e in chain.entries}
    assert by["despair", "fear"] == "published"  # fear + sadness, then the same words
    assert by["love", "contentment"] == "ours"


def test_chain_is_the_product_of_its_steps():
    a = mappings.mapping("plutchik24", "plutchik8").matrix
    b = mappings.mapping("plutchik8", "ekman7").matrix
    assert np.allclose(mappings.mapping("plutchik24", "ekman7").matrix, a @ b)


def test_convert_keeps_mass_and_is_linear():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(24), size=(2, 3))
    q = mappings.convert(p, "plutchik24", "mikels")
    assert q.shape == (2, 3, 8) and np.allclose(q.sum(axis=-1), 1)
    mean = mappings.convert(p.mean(axis=(0, 1)), "plutchik24", "mikels")
    assert np.allclose(mean, q.mean(axis=(0, 1)))
    with pytest.raises(ValueError, match="24"):
        mappings.convert(np.ones(8), "plutchik24", "mikels")


def test_no_chain_and_unknown_sets_are_named():
    with pytest.raises(InputError, match="no chain of mappings leads from 'mikels' to 'dyads'"):
        mappings.mapping("mikels", "dyads")
    with pytest.raises(InputError, match="did you mean 'mikels'"):
        mappings.mapping("mikel", "ekman7")


RESOLVED = """
mikels: anger anger, Furious anger, scared fear, awestruck awe, terrified fear, serene contentment,
mikels: amazement awe, grief sadness, unhappy sadness, mad anger
ekman6: happy happiness
plutchik8: happy joy
emofaces-all: surprised surprise
emofaces: blank neutral
ekman7: contemptuous contempt
"""


@pytest.mark.parametrize("line", RESOLVED.strip().splitlines())
def test_free_words_resolve_to_a_label_of_the_set(line):
    name, pairs = line.split(": ")
    for word, label in (pair.split() for pair in pairs.strip(",").split(",")):
        assert words.resolve(f"  {word} ", name) == label


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("angyr", "did you mean 'angry'"),
        ("happy", "amusement or contentment or excitement here; say which"),
        ("blank", "'blank' .neutral. has no place among"),
        ("", "choose among amusement, awe"),
    ],
)
def test_words_that_mean_nothing_or_too_much(word, message):
    with pytest.raises(InputError, match=message):
        words.resolve(word)


def test_every_label_has_a_word_that_leads_back_to_it():
    for name in ("mikels", "emofaces-all", "ekman7", "plutchik8", "plutchik24"):
        order = sets.labels(name)
        assert len({words.adjective(x) for x in order}) == len(order)
        assert [words.resolve(words.adjective(x), name) for x in order] == list(order)


def test_prompts():
    assert words.prompt("anger") == "photo of an angry person"
    assert words.prompt("anger", template=words.CAPTION) == "a photo of an angry person"
    assert words.prompt("sadness", "man", "{article} {word} {description}!") == "a sad man!"
    assert (
        words.prompt(None) == "photo of a person" and words.prompt(None, "old man") == "photo of an old man"
    )
    assert words.prompt(None, template="a portrait, {word}") == "a portrait"
    with pytest.raises(InputError, match="unknown emotion 'love'"):
        words.prompt("love")


def test_colours_are_distinct_within_a_set_and_text_is_readable():
    for name in ("mikels", "emofaces-all", "ekman7", "plutchik24", "dyads"):
        hexes = [colours.colour(x) for x in sets.labels(name)]
        assert len(set(hexes)) == len(hexes) and all(len(h) == 7 for h in hexes)
    for label in (*sets.EMOFACES_ALL, *sets.PLUTCHIK24):
        paper = colours.colour(label)
        a, b = sorted((colours.luminance(paper), colours.luminance(colours.text_on(paper))))
        assert (b + 0.05) / (a + 0.05) >= 4.5  # WCAG AA
    with pytest.raises(InputError, match="unknown emotion 'happy'"):
        colours.colour("happy")


def test_tint_ends():
    assert colours.tint("#336699", 1) == "#ffffff" and colours.tint("#336699", -1) == "#000000"
    assert colours.tint("#336699", 0) == "#336699"
    assert colours.luminance("#ffffff") == pytest.approx(1) and colours.luminance("#000000") == 0
