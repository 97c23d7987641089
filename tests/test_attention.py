"""Prompt-to-prompt: the alignment of words by hand, control by identities on tiny UNets."""

import pytest
import torch
from diffusers import UNet2DModel
from tiny_pipelines import noise, positions, sd_pipeline, tiny

from emolib.interventions.alignment import Span, align, refine, replace, spans
from emolib.interventions.attention import AttentionMaps, Injection, LocalBlend, blend, controlled
from emolib.runtime import InputError

both = pytest.mark.parametrize("kind", ["sd", "sdxl"])
GRID = [800, 600, 400, 200, 0]


def injection(model, source, targets, how=replace, **options):
    rows = [spans(model.pipe, text) for text in (source, *targets)]
    return Injection(
        sources=(0,) * len(rows),
        transfers=(None, *(how(rows[0], row) for row in rows[1:])),
        timesteps=GRID,
        **{"cross_replace_steps": (0.0, 1.0), "self_replace_steps": (0.0, 1.0), **options},
    )


@torch.no_grad()
def evaluate(model, prompts, *controllers, z=None, t=600, guidance=3.0):
    """The guided prediction's eps for one latent under each of the prompts."""
    z = noise(1, 4, 16, 16) if z is None else z
    cond, rows = model.embed(prompts), z.expand(len(prompts), -1, -1, -1)
    if not controllers:
        return model.predict(rows, t, cond, model.null(), guidance).eps
    with controlled(model.unet, *controllers):
        return model.predict(rows, t, cond, model.null(), guidance).eps


# Control ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [replace, refine])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@both
def test_identical_prompts_change_nothing(kind, guidance, how):
    model, prompts = tiny(kind), ["a sad man"] * 2
    plain = evaluate(model, prompts, guidance=guidance)
    changed = evaluate(model, prompts, injection(model, prompts[0], prompts[1:], how), guidance=guidance)
    torch.testing.assert_close(changed, plain, rtol=1e-4, atol=1e-5)


@both
def test_the_source_is_what_it_is_without_control_and_targets_are_not(kind):
    model, prompts = tiny(kind), ["a sad man", "a mad man", "a fat cow"]
    plain = evaluate(model, prompts)
    changed = evaluate(model, prompts, injection(model, prompts[0], prompts[1:]))
    torch.testing.assert_close(changed[0], plain[0], rtol=1e-4, atol=1e-5)
    for row in (1, 2):
        assert (changed[row] - plain[row]).abs().max() > 1e-4


def test_self_attention_by_queries_and_keys_is_self_attention_by_probabilities():
    model = tiny("sd")
    name = next(name for name in model.unet.attn_processors if "attn1" in name)
    attn = model.unet.get_submodule(name.removesuffix(".processor"))
    control = Injection((0, 0), (None, replace(*[spans(model.pipe, "a man")] * 2)), GRID)
    seen = []
    hook = attn.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad(), controlled(model.unet, control):
        model.predict(noise(2, 4, 16, 16), 800, model.embed("a man"))
    hook.remove()
    x, output = seen[0]
    with torch.no_grad():
        query, key, value = (attn.head_to_batch_dim(f(x)) for f in (attn.to_q, attn.to_k, attn.to_v))
        maps = attn.get_attention_scores(query, key).unflatten(0, (2, -1))
        maps = torch.stack([maps[0], maps[0]]).flatten(0, 1)
        expected = attn.to_out[0](attn.batch_to_head_dim(maps @ value))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_taken_over_outside_the_steps():
    model, prompts = tiny("sd"), ["a sad man", "a mad man"]
    off = {"cross_replace_steps": (0.0, 0.25), "self_replace_steps": (0.5, 0.5)}
    control = injection(model, prompts[0], prompts[1:], **off)
    assert torch.equal(evaluate(model, prompts, control, t=600), evaluate(model, prompts, t=600))
    assert not torch.allclose(
        evaluate(model, prompts, control, t=800), evaluate(model, prompts, t=800), atol=1e-4
    )
    with pytest.raises(ValueError, match="555"):
        evaluate(model, prompts, control, t=555)


def test_weights_scale_a_words_attention():
    model, prompts = tiny("sd"), ["a sad man", "a sad man"]
    neutral = injection(model, prompts[0], prompts[1:], weights=torch.ones(2, 40))
    strong = torch.ones(2, 40)
    strong[1, list(positions(model.pipe, prompts[1], "sad"))] = 4.0
    louder = injection(model, prompts[0], prompts[1:], weights=strong)
    plain = evaluate(model, prompts)
    torch.testing.assert_close(evaluate(model, prompts, neutral), plain, rtol=1e-4, atol=1e-5)
    changed = evaluate(model, prompts, louder)
    torch.testing.assert_close(changed[0], plain[0], rtol=1e-4, atol=1e-5)
    assert (changed[1] - plain[1]).abs().max() > 1e-4


def test_pairs_follow_their_own_sources():
    model = tiny("sd")
    prompts, z = ["a sad man", "a fat cow", "a mad man", "a fat hen"], noise(2, 4, 16, 16)
    rows = [spans(model.pipe, text) for text in prompts]
    transfers = (None, None, replace(rows[0], rows[2]), replace(rows[1], rows[3]))
    control = Injection((0, 1, 0, 1), transfers, GRID, (0.0, 1.0), (0.0, 1.0))
    together = evaluate(model, prompts, control, z=z.repeat(2, 1, 1, 1))
    for i in (0, 1):
        alone = injection(model, prompts[i], [prompts[i + 2]])
        single = evaluate(model, [prompts[i], prompts[i + 2]], alone, z=z[i, None])
        torch.testing.assert_close(together[[i, i + 2]], single, rtol=1e-4, atol=1e-5)


def test_processors_are_restored_nest_and_survive_exceptions():
    model = tiny("sd")
    before = model.unet.attn_processors
    control = injection(model, "a sad man", ["a mad man"])
    with controlled(model.unet, control):
        outer = model.unet.attn_processors
        with pytest.raises(RuntimeError, match="oops"), controlled(model.unet, AttentionMaps(2)):
            assert model.unet.attn_processors != outer
            raise RuntimeError("oops")
        assert all(model.unet.attn_processors[name] is outer[name] for name in outer)
    assert all(model.unet.attn_processors[name] is before[name] for name in before)
    assert not model.unet._forward_pre_hooks


def test_a_nested_controller_adds_to_the_outer_one():
    model, prompts = tiny("sd"), ["a sad man", "a mad man"]
    control, maps = injection(model, *prompts[:1], prompts[1:]), AttentionMaps(2)
    once = evaluate(model, prompts, control)
    with controlled(model.unet, control):
        nested = evaluate(model, prompts, maps)
    assert torch.equal(nested, once)
    words = positions(model.pipe, prompts[0], "sad"), positions(model.pipe, prompts[1], "mad")
    taken = [maps.word(row, tokens, (16, 16)) for row, tokens in enumerate(words)]
    torch.testing.assert_close(*taken)  # the target's word looks where the source's looked


def test_networks_and_batches_that_cannot_be_controlled():
    model = tiny("sd")
    with pytest.raises(InputError, match="no attention to control"), controlled(torch.nn.Linear(1, 1)):
        pass
    plain = UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        norm_num_groups=4, add_attention=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="no attention to control"), controlled(plain):
        pass
    with pytest.raises(ValueError, match="a batch of 3, controlled as 2 rows"):
        evaluate(model, ["a man"] * 3, injection(model, "a man", ["a man"]), guidance=1.0)


def test_attention_with_its_own_weights_is_not_thrown_away():
    model = tiny("sd")
    before = model.unet.attn_processors
    name = next(iter(before))
    own = torch.nn.Linear(1, 1)
    model.unet.set_attn_processor({**before, name: own})
    try:
        with pytest.raises(InputError, match="weights of its own"), controlled(model.unet, AttentionMaps(1)):
            pass
    finally:
        model.unet.set_attn_processor(dict(before))


# Maps and blending ------------------------------------------------------------------------------------------


@both
def test_maps_of_all_tokens_sum_to_one_and_are_those_of_the_conditional_half(kind):
    model, prompts = tiny(kind), ["a sad man", "a mad man"]
    guided, alone = AttentionMaps(2, (1, 2)), AttentionMaps(2, (1, 2))
    plain = evaluate(model, prompts)
    assert torch.allclose(evaluate(model, prompts, guided), plain, rtol=1e-4, atol=1e-5)
    evaluate(model, prompts, alone, guidance=1.0)
    for row in (0, 1):
        torch.testing.assert_close(guided.word(row, range(40), (16, 16)), torch.ones(16, 16))
        tokens = positions(model.pipe, prompts[row], "man")
        torch.testing.assert_close(guided.word(row, tokens, (16, 16)), alone.word(row, tokens, (16, 16)))


def test_maps_are_averaged_over_steps_and_follow_the_picture():
    model, maps, each = tiny("sd"), AttentionMaps(1), []
    z = noise(1, 4, 12, 20)
    for t in (800, 400):
        one = AttentionMaps(1)
        evaluate(model, ["a sad man"], maps, z=z, t=t)
        evaluate(model, ["a sad man"], one, z=z, t=t)
        each.append(one.word(0, [2], (12, 20)))
    torch.testing.assert_close(maps.word(0, [2], (12, 20)), (each[0] + each[1]) / 2)
    with pytest.raises(ValueError, match="no maps yet"):
        AttentionMaps(1).word(0, [1], (4, 4))


def test_a_full_mask_is_the_edit_and_an_empty_one_the_source():
    z = noise(3, 4, 8, 8)
    whole = torch.ones(3, 1, 8, 8, dtype=torch.bool)
    assert torch.equal(blend(z, whole, (0, 0, 0)), z)
    assert torch.equal(blend(z, ~whole, (0, 0, 0)), z[:1].expand(3, -1, -1, -1))


def test_local_blend_keeps_the_source_where_no_word_looks():
    maps = AttentionMaps(2)
    heat = torch.zeros(2, 1, 64, 3)
    heat[0, 0, :8, 1] = heat[1, 0, -8:, 2] = 1.0  # the source's word looks at the top row, the target's below
    maps.edit(heat, type("L", (), {"size": (8, 8)}))
    local = LocalBlend(maps, [(1,), (2,)], (0, 0), threshold=0.5, start=1)
    z = noise(2, 4, 8, 8)
    assert local(0, z, None) is None
    result, mask = local(1, z, None), local.mask((8, 8))
    rows = mask[1, 0].all(1)
    assert rows.tolist() == [True, True, False, False, False, False, True, True]  # pooled over 3 x 3
    assert torch.equal(result[0], z[0])
    assert torch.equal(result[1][:, rows], z[1][:, rows])
    assert torch.equal(result[1][:, ~rows], z[0][:, ~rows])


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        ("a sad man", "a sad man", [0, 1, 2]),
        ("a man", "a very sad man", [0, None, None, 1]),
        ("a sad old man", "a man", [0, 3]),
        ("a sad man", "an angry man", [None, None, 2]),
        ("", "a man", [None, None]),
        ("the cat saw dogs", "dogs saw the cat today", [None, None, 0, 1, None]),
    ],
)
def test_words_are_aligned_in_order(source, target, places):
    assert align(source.split(), target.split()) == places


def test_a_prompt_is_all_its_tokens():
    pipe = tiny("sd").pipe
    row = spans(pipe, "An angry man, don't")
    assert [span.text for span in row[1:-2]] == ["an", "angry", "man", ",", "don", "'t"]
    assert row[2].tokens == (3, 4, 5, 6, 7)  # the tiny tokenizer has one token a letter
    assert sorted(position for span in row for position in span.tokens) == list(range(40))


def test_a_prompt_that_is_too_long_is_cut_like_the_pipeline_cuts_it():
    pipe = tiny("sd").pipe
    row = spans(pipe, "a " + "m" * 60)
    assert row[-1].tokens == ()
    assert row[-2].tokens == (39,)
    same = replace(row, row)
    assert torch.equal(same.mapper, torch.eye(40))


def test_a_new_token_is_a_word():
    pipe = sd_pipeline()
    pipe.tokenizer.add_tokens(["<joy>", "<joy>_1"])  # of two vectors, as textual inversion makes them
    row = spans(pipe, "a <joy> man")
    assert row[1:3] == [Span("a", (1,)), Span("<joy>", (2,))]
    assert [span.text for span in row[3:]] == ["<joy>_1", "man", "<end>", "<padding>"]


def test_replace_keeps_all_attention_and_refine_keeps_what_is_known():
    source = [
        Span("<s>", (0,)),
        Span("a", (1,)),
        Span("sad", (2, 3)),
        Span("</s>", (4,)),
        Span("pad", (5, 6)),
    ]
    swap = [Span("<s>", (0,)), Span("a", (1,)), Span("mad", (2, 3, 4)), Span("</s>", (5,)), Span("pad", (6,))]
    maps = torch.rand(9, 7).softmax(1)
    taken = maps @ replace(source, swap).mapper
    torch.testing.assert_close(taken.sum(1), torch.ones(9))
    torch.testing.assert_close(taken[:, 2:5].sum(1), maps[:, 2:4].sum(1))
    torch.testing.assert_close(taken[:, 5], maps[:, 4])
    added = [*source[:2], Span("very", (2,)), Span("sad", (3, 4)), Span("</s>", (5,)), Span("pad", (6,))]
    transfer = refine(source, added)
    assert transfer.share.tolist() == [1, 1, 0, 1, 1, 1, 1]
    torch.testing.assert_close((maps @ transfer.mapper)[:, 3:5], maps[:, 2:4])


def test_prompts_of_unequal_length_cannot_be_swapped_word_by_word():
    pipe = tiny("sd").pipe
    with pytest.raises(ValueError):
        replace(spans(pipe, "a man"), spans(pipe, "a sad man"))
