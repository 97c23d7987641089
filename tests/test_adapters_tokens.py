"""Learned tokens in a model: what a prompt then means, that nothing else changes, and that all comes back."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from tiny_pipelines import folder, tiny

from emolib.emotions import words
from emolib.interventions import splice, token_files
from emolib.interventions.splice import learned_token, parameters_of, spliced
from emolib.interventions.tokens import Token, around, interpolate, mix, placeholder, strengthen
from emolib.runtime import InputError

PROMPT, WORD = "photo of a <awe> man", "c"


def token(kind="sd", name="<awe>", n=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = [
        torch.randn(n, e.get_input_embeddings().embedding_dim, generator=draw)
        for e in splice.encoders(tiny(kind))
    ]
    return Token(name, *rows, model=kind, emotion="awe", initializer="ab", steps=7, licence="CC0-1.0")


def snapshot(model):
    """Everything of the text side that a token could touch."""
    parts = []
    for name, encoder in splice.components(model):
        words, network = getattr(model.pipe, name), getattr(model.pipe, encoder)
        owner = getattr(network, "text_model", network)
        parts.append((words, words.get_vocab(), network.get_input_embeddings(), owner.eos_token_id))
        parts.append({key: value.clone() for key, value in network.state_dict().items()})
    return parts


def unchanged(before, after):
    for a, b in zip(before, after, strict=True):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)
        else:
            assert a[0] is b[0] and a[2] is b[2] and (a[1], a[3]) == (b[1], b[3])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@torch.no_grad()
def test_a_token_that_holds_a_words_vectors_means_that_word(kind):
    model = tiny(kind)
    same = splice.vectors_of_words(model, "<awe>", "ab", vectors=2)  # two characters, two pieces
    expected = model.embed("photo of a ab man, ab")
    with learned_token(model, same):
        found = model.embed("photo of a <awe> man, <awe>")
    assert torch.equal(found.hidden, expected.hidden)
    assert kind == "sd" or torch.equal(found.pooled, expected.pooled)


@torch.no_grad()
def test_old_sdxl_files_still_find_the_end_of_a_prompt_with_new_words(monkeypatch):
    # Their configuration says that a prompt ends at its highest id, which a new token's would be.
    model = tiny("sdxl")
    for encoder in splice.encoders(model):
        monkeypatch.setattr(getattr(encoder, "text_model", encoder), "eos_token_id", 2)
    expected = model.embed("photo of a c man")
    with learned_token(model, splice.vectors_of_words(model, "<awe>", "c")):
        assert torch.equal(model.embed(PROMPT).pooled, expected.pooled)
    assert model.pipe.text_encoder_2.text_model.eos_token_id == 2


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@torch.no_grad()
def test_prompts_in_two_halves_are_the_models_own_embedding(kind):
    model, prompts = tiny(kind), ["a photo", PROMPT, ""]
    with learned_token(model, token(kind)):
        found, expected = splice.encode_tokens(model, splice.tokenise(model, prompts)), model.embed(prompts)
    assert torch.equal(found.hidden, expected.hidden)
    assert kind == "sd" or torch.equal(found.pooled, expected.pooled)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@torch.no_grad()
def test_the_model_is_as_before_also_after_nesting_and_failure(kind):
    model = tiny(kind)
    before, plain = snapshot(model), model.embed("photo of a man").hidden
    with learned_token(model, token(kind)) as names:
        assert names == ("<awe>",)
        middle, one = snapshot(model), model.embed(PROMPT).hidden
        with pytest.raises(KeyError), learned_token(model, token(kind, "<joy>", seed=1)):
            assert torch.equal(model.embed(PROMPT).hidden, one)  # the inner token leaves the outer alone
            assert not torch.equal(model.embed("photo of a <joy> man").hidden, one)
            assert torch.equal(model.embed("photo of a man").hidden, plain)
            raise KeyError
        unchanged(middle, snapshot(model))
    unchanged(before, snapshot(model))


def test_the_model_is_as_before_when_plugging_in_breaks_off(monkeypatch):
    model, before = tiny("sd"), snapshot(tiny("sd"))
    with monkeypatch.context() as patch:
        broken = lambda network, table: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        patch.setattr(type(model.pipe.text_encoder), "set_input_embeddings", broken)
        with pytest.raises(KeyboardInterrupt), learned_token(model, token()):
            pass
    unchanged(before, snapshot(model))


def test_what_does_not_fit_is_refused_before_anything_changes(tmp_path):
    model, before = tiny("sd"), snapshot(tiny("sd"))
    refusals = {
        r"width \[9\], but .* take \[16\]": Token("<awe>", torch.ones(1, 9)),
        r"width \[16, 24\], but .* take \[16\]": token("sdxl"),
        "no such file": tmp_path / "none.safetensors",
    }
    for reason, given in refusals.items():
        with pytest.raises(InputError, match=reason), learned_token(model, given):
            pass
    with pytest.raises(InputError, match="given twice"), learned_token(model, token(), token()):
        pass
    twice = learned_token(model, token())
    with learned_token(model, token()), pytest.raises(InputError, match="already"), twice:
        pass
    unchanged(before, snapshot(model))


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ("awe", "'<awe>'"),
        ("<awe struck>", "'<awe-struck>'"),
        ("", "'<token>'"),
        ("<a>b", "'<a-b>'"),
        ("< >", "<"),
    ],
)
def test_names_that_are_words_or_hold_a_space_are_refused_with_a_better_one(name, mended):
    with pytest.raises(InputError, match="bracket|space") as error:
        placeholder(name)
    assert mended in str(error.value)
    assert placeholder("<Awe>") == "<awe>"


@torch.no_grad()
def test_diffusers_opens_our_file_and_means_the_same(tmp_path):
    model, ours = tiny("sd"), token(n=3)
    token_files.save_token(ours, tmp_path / "awe.safetensors")
    with learned_token(model, tmp_path / "awe.safetensors"):
        expected = model.embed(PROMPT).hidden
    pipe = StableDiffusionPipeline.from_pretrained(folder("sd"))
    pipe.load_textual_inversion(tmp_path / "awe.safetensors")
    found, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_diffusers_opens_our_sdxl_file_and_means_the_same(tmp_path):
    model, ours = tiny("sdxl"), token("sdxl")
    token_files.save_token(ours, tmp_path / "awe.safetensors")
    with learned_token(model, tmp_path / "awe.safetensors"):
        expected = model.embed(PROMPT)
    pipe = StableDiffusionXLPipeline.from_pretrained(folder("sdxl"))
    state = load_file(tmp_path / "awe.safetensors")
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        parts = {name: getattr(pipe, name + number) for name in ("tokenizer", "text_encoder")}
        pipe.load_textual_inversion(state[key], token="<awe>", **parts)
    hidden, _, pooled, _ = pipe.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(hidden, expected.hidden, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled, expected.pooled, rtol=1e-5, atol=1e-6)


def test_only_the_new_rows_get_a_gradient():
    model = tiny("sd")
    rows = parameters_of(model, token(), requires_grad=True)
    table = model.pipe.text_encoder.get_input_embeddings()
    with spliced(model, {"<awe>": rows}):
        model.embed(PROMPT).hidden.square().sum().backward()
    assert rows[0].grad.abs().min() > 0
    assert table.weight.grad is None and not table.weight.requires_grad


def test_algebra_at_its_fixed_points():
    calm, awe, joy = (token(name=f"<{name}>", seed=i) for i, name in enumerate(("calm", "awe", "joy")))
    same = lambda a, b: torch.allclose(a.vectors, b.vectors, atol=1e-6)  # noqa: E731
    assert same(interpolate(awe, joy, 0), awe) and same(interpolate(awe, joy, 1), joy)
    assert same(strengthen(awe, calm, 0), calm) and same(strengthen(awe, calm, 1), awe)
    assert same(strengthen(strengthen(awe, calm, 2), calm, 0.5), awe)
    assert same(mix([awe, joy], [3, 1]), interpolate(awe, joy, 0.25))
    assert mix([awe, joy], [1, 1], name="<both>").name == "<both>"
    assert strengthen(token("sdxl"), token("sdxl", seed=1), 1.5).vectors_2.shape == (2, 24)
    with pytest.raises(InputError, match="number or width"):
        interpolate(awe, token(n=3), 0.5)


def test_a_walk_around_the_wheel_meets_every_token_and_closes():
    labels = ("awe", "contentment", "anger", "sadness")  # at 157.5, 202.5, 292.5 and 22.5 degrees
    tokens = {label: token(name=f"<{label}>", seed=i) for i, label in enumerate(labels)}
    at = lambda degrees: around(tokens, degrees).vectors  # noqa: E731
    for label, degrees in zip(labels, (157.5, 202.5, 292.5, 22.5), strict=True):
        torch.testing.assert_close(at(degrees), tokens[label].vectors)
        torch.testing.assert_close(at(degrees + 360), tokens[label].vectors)
    middle = (tokens["anger"].vectors + tokens["sadness"].vectors) / 2
    torch.testing.assert_close(at((292.5 + 22.5 + 360) / 2), middle)  # across zero degrees
    torch.testing.assert_close(at(157.5 + 9), 0.8 * at(157.5) + 0.2 * at(202.5))


def test_where_a_token_starts():
    model = tiny("sd")
    table = model.pipe.text_encoder.get_input_embeddings().weight
    of = lambda piece: table[model.pipe.tokenizer.convert_tokens_to_ids(piece)]  # noqa: E731
    pieced = splice.vectors_of_words(model, "<x>", "ab", vectors=2).vectors
    torch.testing.assert_close(pieced, torch.stack([of("a"), of("b</w>")]))
    mean = splice.vectors_of_words(model, "<x>", ["c", "ab"], vectors=3).vectors
    torch.testing.assert_close(mean, ((of("c</w>") + of("a") + of("b</w>")) / 3).expand(3, -1))
    crossed = splice.vectors_of_words(model, "<x>", "c", cross=True).vectors
    assert crossed.norm() == pytest.approx(of("c</w>").norm().item(), rel=1e-4)
    assert torch.cosine_similarity(crossed[0], of("c</w>"), dim=0) < 0.99
    for bad in ({"vectors": 0}, {"vectors": 9}, {"words": " "}):
        with pytest.raises(InputError):
            splice.vectors_of_words(model, "<x>", bad.pop("words", "c"), **bad)


def test_a_token_is_its_own_prompt_word_and_an_unknown_one_is_refused():
    model = tiny("sd")
    assert words.prompt("<awe>") == "photo of a <awe> person"
    with learned_token(model, token()):
        model.embed(words.prompt("<awe>"))
    with pytest.raises(InputError, match="<awe> is no token of sd"):
        model.embed(words.prompt("<awe>"))
    model.embed("<3 and <|endoftext|>")  # no placeholders
