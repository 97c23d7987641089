"""Textual inversion on tiny random models: the gradient, what it moves, what it learns, when it stops."""

from dataclasses import replace

import pytest
import tiny_pipelines
import torch
from tiny_pipelines import tiny

from emolib.interventions import splice
from emolib.interventions.splice import parameters_of, spliced
from emolib.interventions.tokens import Token
from emolib.runtime import InputError
from emolib.training import examples as caches
from emolib.training.examples import Batches
from emolib.training.objective import Objective
from emolib.training.pictures import Pictures
from emolib.training.settings import Settings
from emolib.training.textual_inversion import Concept, learn_tokens, train_rows

FEW = Settings(precision="float32", steps=6, batch=2, evaluate_every=3, evaluate_on=2, patience=0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def concept(name="<awe>", n=5, seed=0, pairs=False, **changes):
    calm = tiny_pipelines.pictures(n, seed=seed + 50) if pairs else None
    pictures = Pictures(tiny_pipelines.pictures(n, seed=seed), neutral=calm)
    return Concept(name, pictures, **{"initializer": "ab", "vectors": 2, **changes})


def state(model):
    networks = (model.unet, model.vae, *splice.encoders(model))
    return [value.clone() for network in networks for value in network.state_dict().values()]


@pytest.mark.parametrize(("pairs", "focus"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_gradient_is_the_one_that_every_prompt_by_itself_would_give(pairs, focus):
    # The plain way: each draw's own prompt through the whole pipeline, the loss written out.
    model, one = tiny("sd"), concept(pairs=pairs)
    rows = parameters_of(model, splice.vectors_of_words(model, "<awe>", "ab", vectors=2), requires_grad=True)
    with spliced(model, {"<awe>": rows}):
        example = caches.encode_examples(
            model, one.pictures.images, caches.write_prompts("<awe>", ("man", "boy") * 2 + ("man",))
        )
        if pairs:
            calm = caches.write_prompts("neutral", ("man", "boy") * 2 + ("man",))
            example = replace(example, neutral=caches.encode_examples(model, one.pictures.neutral, calm))
        batches = Batches(model, {"<awe>": example}, seed=0, held_out=0.0)
        batch = batches.training(3, 4, ["<awe>"])
        objective = Objective(model, batches, replace(FEW, focus=focus))
        embedding, which = objective.encode(batch)
        assert len(embedding) == len(set(batch.prompt.tolist())) < 4 or len(which) == 4
        found = torch.autograd.grad(objective.losses(batch, embedding_of(embedding, which)).sum(), rows)[0]
        expected = torch.autograd.grad(plain_loss(model, example, batch, focus and pairs), rows)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def embedding_of(embedding, which):
    return type(embedding)(embedding.hidden[which])


def plain_loss(model, example, batch, focus):
    lines = list(dict.fromkeys(line for texts in example.prompts for line in texts))
    total = 0.0
    for i in range(len(batch)):
        t, noise, at = int(batch.t[i]), batch.noise[i], (int(batch.row[i]), int(batch.flip[i]))
        abar = model.alphas_cumprod[t].item()

        def error(side, prompt, at=at, t=t, noise=noise, abar=abar, i=i):
            z0 = side.mean[at] + side.std[at] * batch.spread[i]
            z = abar**0.5 * z0 + (1 - abar) ** 0.5 * noise
            return model.unet(z[None], torch.tensor([t]), model.embed(prompt).hidden)[0][0] - noise

        prompt = lines[int(batch.prompt[i])]
        missed = error(example, prompt)
        if example.neutral:
            with torch.no_grad():
                calm = error(example.neutral, prompt.replace("<awe>", "neutral"))
            missed = missed - calm
        weight = 1.0
        if focus:  # z0 of the one minus z0 of the other, by place
            change = example.mean[at] - example.neutral.mean[at]
            change = change + (example.std[at] - example.neutral.std[at]) * batch.spread[i]
            weight = change.abs().mean(0) / change.abs().mean()
        total = total + (weight * missed.square()).mean()
    return total


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_only_the_new_rows_change(kind):
    model = tiny(kind)
    before = state(model)
    result = learn_tokens(model, [concept()], FEW)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert result.curves[0][0][1] != result.curves[0][-1][1]  # the rows did
    assert len(result.tokens[0].rows) == len(splice.encoders(model))
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_a_token_finds_the_word_that_explains_its_pictures():
    # Pairs whose two sides are one picture, and a known word on the neutral side: only a token that means
    # the same as that word makes the difference zero.
    model, pictures = tiny("sd"), tiny_pipelines.pictures(4)
    rows = parameters_of(model, splice.vectors_of_words(model, "<awe>", "z"), requires_grad=True)
    found, truth = (((f"{word} man",),) * 4 for word in ("<awe>", "c"))
    with spliced(model, {"<awe>": rows}):
        one = caches.encode_examples(model, pictures, found)
        one = replace(one, neutral=replace(one, prompts=truth))
        plan = replace(FEW, steps=40, batch=4, evaluate_every=20, evaluate_on=4, lr=1e-2, held_out=0.0)
        losses = [
            loss for _, loss in train_rows(model, {"<awe>": one}, {"<awe>": rows}, plan).curves["<awe>"]
        ]
    assert min(losses) < 0.05 * losses[0]


def test_several_tokens_in_one_run_learn_what_each_would_alone():
    model = tiny("sd")
    concepts = [concept(), concept("<joy>", n=4, seed=1, vectors=1, initializer="c")]
    together = learn_tokens(model, concepts, FEW).tokens
    for one, both in zip(concepts, together, strict=True):
        (alone,) = learn_tokens(model, [one], FEW).tokens
        torch.testing.assert_close(both.vectors, alone.vectors, rtol=1e-4, atol=1e-6)


def test_micro_batches_change_nothing():
    model = tiny("sdxl")
    whole, parts = (
        learn_tokens(model, [concept()], replace(FEW, micro_batch=size)).tokens[0] for size in (0, 1)
    )
    for a, b in zip(whole.rows, parts.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_best_evaluation_is_kept_and_a_run_without_progress_stops():
    # Steps so long that every one makes it worse: the start is the best, and patience ends the run.
    wild = replace(FEW, steps=500, batch=2, evaluate_every=1, evaluate_on=2, patience=2, lr=30.0, warmup=0)
    result = learn_tokens(tiny("sd"), [concept()], wild, keep_norm=False)
    (token,), (start,), (curve,) = result.tokens, result.starts, result.curves
    best = min(curve, key=lambda point: point[1])[0]
    assert result.steps == curve[-1][0] == best + 2 < 500
    assert token.steps == best
    if best == 0:
        assert torch.equal(token.vectors, start.vectors)


def test_lengths_stay_within_the_vocabularys():
    model = tiny("sd")
    low, middle, high = splice.lengths(model)[0].tolist()
    norms = model.pipe.text_encoder.get_input_embeddings().weight.norm(dim=1)
    assert (norms < low).float().mean() == pytest.approx(0.05, abs=0.01)
    assert norms.median() == pytest.approx(middle, rel=0.01)
    one = learn_tokens(model, [concept()], replace(FEW, lr=10.0))
    start, moved = (part.vectors.norm(dim=1) for part in (*one.starts, *one.tokens))
    assert (moved >= start.clamp(max=low) * 0.999).all() and (moved <= start.clamp(min=high) * 1.001).all()
    (free,) = learn_tokens(
        model, [concept()], replace(FEW, lr=10.0, evaluate_every=6), keep_norm=False
    ).tokens
    assert free.steps == 0 or free.vectors.norm(dim=1).max() > high


def test_half_precision_trains_and_diverging_is_said():
    model = tiny("sd")
    for name in ("bfloat16", "float16"):
        one = learn_tokens(model, [concept()], replace(FEW, precision=name))
        assert torch.isfinite(one.tokens[0].vectors).all() and one.curves[0][0][1] > 0
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        learn_tokens(model, [concept()], replace(FEW, lr=1e30, warmup=0), keep_norm=False)


def test_another_runs_checkpoint_is_refused_and_its_own_is_taken(tmp_path):
    model, lines = tiny("sd"), []
    (first,) = learn_tokens(model, [concept()], FEW, work=tmp_path).tokens
    (again,) = learn_tokens(model, [concept()], FEW, work=tmp_path, tell=lines.append).tokens
    assert torch.equal(first.vectors, again.vectors) and lines == ["goes on at step 6 of at most 6"]
    for other, settings in ((concept(seed=2), FEW), (concept(), replace(FEW, lr=1.0))):
        with pytest.raises(InputError, match="other pictures, settings"):
            learn_tokens(model, [other], settings, work=tmp_path)
    with pytest.raises(InputError, match="other pictures, settings"):
        learn_tokens(model, [concept(vectors=1)], FEW, work=tmp_path)


def test_refusals_leave_the_model_alone():
    model, before = tiny("sd"), state(tiny("sd"))
    long = replace(concept(), pictures=Pictures(tiny_pipelines.pictures(2), ("x" * 60,) * 2))
    mixed = [concept(), concept("<joy>", pairs=True)]
    refusals = [
        ("angle brackets", [concept("awe")]),
        ("space", [concept("<a we>")]),
        ("all different", [concept(), concept("<AWE>")]),
        ("vectors of <awe>", [concept(vectors=9)]),
        ("or none", mixed),
    ]
    for reason, concepts in refusals:
        with pytest.raises(InputError, match=reason):
            learn_tokens(model, concepts, FEW)
    with pytest.raises(InputError, match="shorten it"):
        learn_tokens(model, [long], FEW, templates=("{description} {word}",))
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert Token("<awe>", torch.ones(1, 16)).name not in model.pipe.tokenizer.get_vocab()
