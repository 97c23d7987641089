"""The parts of training: the loss in every parameterisation, draws, pictures and what is wrong with them."""

import pytest
import tiny_pipelines
import torch
from PIL import Image
from tiny_pipelines import tiny

from emolib import images
from emolib.data import emofaces
from emolib.diffusion.sampling import add_noise, to_prediction
from emolib.images import resize, to_tensor
from emolib.runtime import InputError
from emolib.training import examples as caches
from emolib.training import settings
from emolib.training import settings as precision
from emolib.training.examples import Batches, stratified
from emolib.training.loop import Run
from emolib.training.objective import change_map, loss_weight, output_error
from emolib.training.pictures import Pictures, pictures_of_people, read_pictures


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("level", [0.999, 0.5, 0.004])
def test_the_error_is_the_networks_output_minus_its_target(kind, level):
    x0, noise, output = torch.randn(3, 2, 4, 5, 5, generator=seeded()).double()
    abar = torch.tensor(level, dtype=torch.float64)
    z = add_noise(x0, noise, abar)
    target = {"epsilon": noise, "sample": x0, "v_prediction": abar**0.5 * noise - (1 - abar) ** 0.5 * x0}[
        kind
    ]
    found = output_error(to_prediction(output, z, abar, kind), x0, noise, abar, kind)
    torch.testing.assert_close(found, output - target)


def test_min_snr_weighs_every_parameterisation_alike():
    # In terms of the noise, an error of v counts (SNR + 1) / SNR times, one of x0 1 / SNR times.
    abar = torch.tensor([0.99, 0.9, 0.5, 0.1])
    snr = abar / (1 - abar)
    weights = {kind: loss_weight(abar, 5.0, kind) for kind in ("epsilon", "v_prediction", "sample")}
    torch.testing.assert_close(weights["epsilon"], snr.clamp(max=5) / snr)
    torch.testing.assert_close(weights["v_prediction"] * (snr + 1) / snr, weights["epsilon"])
    torch.testing.assert_close(weights["sample"] / snr, weights["epsilon"])
    assert torch.equal(loss_weight(abar, 0.0, "epsilon"), torch.ones(4))


def test_a_floor_pays_for_x0_where_there_is_hardly_any_signal():
    snr = torch.tensor([0.01, 1.0, 10.0])
    weights = loss_weight(snr / (1 + snr), 5.0, "epsilon", 0.2)
    torch.testing.assert_close(weights * snr, torch.tensor([0.2, 1.0, 5.0]))


def test_the_map_of_change_is_one_on_average_and_nothing_where_nothing_changes():
    calm = torch.zeros(3, 2, 2, 2)
    felt = calm.clone()
    felt[0, :, 0, 0] = torch.tensor([1.0, -3.0])  # one place of four
    felt[1] = 0.5  # everywhere alike
    found = change_map(felt, calm)
    assert found.shape == (3, 1, 2, 2)
    assert found[0, 0].tolist() == [[4, 0], [0, 0]] and (found[1] == 1).all()
    assert (found[2] == 1).all()  # two equal pictures: no place is better than another
    torch.testing.assert_close(change_map(10 * felt, 10 * calm), found)


def test_timesteps_are_one_from_each_stratum():
    drawn = torch.stack([stratified(8, 1000, seeded(i)) for i in range(400)])
    assert (drawn.sort(1).values // 125 == torch.arange(8)).all()
    assert drawn.double().mean() == pytest.approx(499.5, abs=5)
    assert drawn[:, 0].double().std() == pytest.approx(1000 / 12**0.5, rel=0.05)  # each place sees all levels


def batches(**changes):
    names = changes.pop("names", ("<awe>", "<joy>"))
    texts = caches.write_prompts("neutral", ("man", "boy", "man", "man", "man"))
    found = {
        n: caches.encode_examples(tiny("sd"), tiny_pipelines.pictures(5, seed=len(n)), texts) for n in names
    }
    return Batches(tiny("sd"), found, **{"seed": 0, "held_out": 0.25, **changes})


def test_draws_depend_on_seed_group_and_step_alone():
    both, alone = batches(), batches(names=("<joy>",))
    mine, same = both.training(7, 3, ["<joy>"]), alone.training(7, 3, ["<joy>"])
    for field in ("flip", "t", "noise", "spread"):
        assert torch.equal(getattr(mine, field), getattr(same, field))
    assert torch.equal(mine.row - 5, same.row) and mine.group.unique().tolist() == [1]
    pair = both.training(7, 3, ["<awe>", "<joy>"])
    assert torch.equal(pair[3:6].noise, mine.noise) and not torch.equal(pair[:3].noise, mine.noise)
    assert not torch.equal(both.training(8, 3, ["<joy>"]).noise, mine.noise)
    assert not torch.equal(batches(seed=1).training(7, 3, ["<joy>"]).noise, mine.noise)


def test_every_pass_shows_every_learned_example_once_and_no_held_out_one():
    found = batches()
    shown = torch.cat([found.training(step, 2, ["<awe>"]).row for step in range(4)])
    tested = set(found.evaluation(6).row[:6].tolist())
    assert sorted(shown[:4].tolist()) == sorted(shown[4:].tolist()) == sorted(set(range(5)) - tested)
    assert len(tested) == 1
    few = batches(held_out=0.0)
    assert set(few.evaluation(6).row[:6].tolist()) == set(range(5))


def test_distinct_prompts_are_in_the_table_once():
    found = batches()
    assert len(found.ids[0]) == 2 * len(caches.TEMPLATES)  # two descriptions
    assert torch.equal(found.evaluation(4).noise, found.evaluation(4).noise)


@torch.no_grad()
def test_latents_are_fresh_draws_of_the_models_posterior():
    model, pictures = tiny("sd"), tiny_pipelines.pictures(2)
    example = caches.encode_examples(model, pictures, caches.write_prompts("neutral", ("a", "b")))
    torch.testing.assert_close(example.mean[:, 0], model.encode(pictures))
    torch.testing.assert_close(example.mean[:, 1], model.encode(pictures.flip(-1)))
    drawn = model.encode(pictures[:1], generator=seeded())
    noise = torch.randn(drawn.shape, generator=seeded())
    torch.testing.assert_close(drawn[0], example.mean[0, 0] + example.std[0, 0] * noise[0])


def test_the_curve_knows_its_best_and_when_it_stopped():
    losses = {"a": [5, 4, 3, 3.5, 3.2, 3.1], "b": [5, 6]}

    def run(patience):
        groups = {name: [torch.nn.Parameter(torch.ones(1))] for name in "abc"}
        made = Run(groups, settings.Plan(patience=patience))
        made.curves = {k: [(10 * i, loss) for i, loss in enumerate(v)] for k, v in losses.items()}
        return made

    assert run(3).best_of("a") == (20, 3) and run(3).best_of("b") == (0, 5)
    assert [run(patience).stopped("a") for patience in (0, 3, 4)] == [False, True, False]
    assert [run(patience).stopped("b") for patience in (1, 2)] == [True, False]
    assert run(1).active == ["c"]


def test_rate_and_settings():
    plan = settings.Settings(steps=100, lr=1.0, warmup=10, decay=0.2)
    assert [settings.rate(plan, s) for s in (0, 9, 50, 80, 90)] == pytest.approx([0.1, 1, 1, 1, 0.5])
    for bad in ({"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"held_out": 1.0}, {"batch": 0}):
        with pytest.raises(InputError):
            settings.Settings(**bad)


def test_precision_is_never_one_that_the_processor_only_imitates(monkeypatch):
    cpu = torch.device("cpu")
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "fast_bf16", lambda device, fast=fast: fast)
        assert precision.compute_dtype(cpu) == expected
    assert precision.compute_dtype(torch.device("cuda")) == torch.float16  # a GPU without bfloat16
    assert precision.compute_dtype(cpu, "float16") == torch.float16
    with pytest.raises(InputError, match="precision"):
        precision.compute_dtype(cpu, "fp16")


def write(folder, n, side=40, seed=0, names="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(tiny_pipelines.pictures(n, side=side, seed=seed)):
        images.save_image(one, folder / names.format(i))
    return folder


def test_a_folder_is_read_as_middle_squares(tmp_path):
    write(tmp_path, 3)
    Image.linear_gradient("L").resize((80, 40)).convert("RGB").save(tmp_path / "wide.jpg")
    found = read_pictures(tmp_path, 32)
    assert found.images.shape == (4, 3, 32, 32) and found.descriptions == ("person",) * 4
    assert found.notes == ("pictures of 2 sizes: the middle square of each is brought to 32 x 32",)
    same = images.resize(images.to_tensor(images.open_image(tmp_path / "0.png")), 32)
    torch.testing.assert_close(found.images[0], same[0])


def test_a_table_says_who_is_there_and_labels_say_what_they_feel(tmp_path):
    write(tmp_path, 4)
    rows = ["file_name,emotion,description"] + [
        f"{i}.png,{'awe' if i < 3 else 'fear'},{'man' if i else 'woman with red hair'}" for i in range(4)
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    found = read_pictures(tmp_path, 32, emotion="awe")
    assert found.descriptions == ("woman with red hair", "man", "man")
    with pytest.raises(InputError, match="awe, fear; say which with --emotion"):
        read_pictures(tmp_path, 32)
    with pytest.raises(InputError, match="unknown emotion"):
        read_pictures(tmp_path, 32, emotion="joy")


def test_pairs_are_joined_by_file_name_or_identity(tmp_path):
    felt = write(tmp_path / "awe", 3)
    calm = write(tmp_path / "neutral", 4, seed=1)
    found = read_pictures(tmp_path, 32, pairs=True)
    for i in range(3):
        one = images.to_tensor(images.open_image(calm / f"{i}.png"))
        torch.testing.assert_close(found.neutral[i], images.resize(one, 32)[0])
    (calm / "2.png").rename(calm / "x.png")
    assert len(read_pictures(tmp_path, 32, pairs=True)) == 2
    with pytest.raises(InputError, match="'neutral' and one named"):
        read_pictures(felt, 32, pairs=True)
    lines = ["file_name,emotion,identity", "awe/0.png,awe,7", "neutral/3.png,neutral,7"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert len(read_pictures(tmp_path, 32, pairs=True)) == 1  # a single pair will do


def flat(value=0.2, n=1):
    return torch.full((n, 3, 32, 32), value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (torch.empty(0, 3, 32, 32), "no pictures"),
        (tiny_pipelines.pictures(1), "one picture"),
        (tiny_pipelines.pictures(1).repeat(5, 1, 1, 1), "all 5 pictures are the same"),
        (torch.cat([tiny_pipelines.pictures(2), flat()]), "picture 3 is one flat colour"),
    ],
)
def test_pictures_that_teach_nothing_are_refused(given, reason):
    with pytest.raises(InputError, match=reason):
        Pictures(given)


def test_pairs_that_do_not_differ_are_refused_and_grey_is_noted():
    same = tiny_pipelines.pictures(2)
    with pytest.raises(InputError, match="pair 1 is twice"):
        Pictures(same, neutral=same)
    with pytest.raises(ValueError, match="shorter|longer"):
        Pictures(same, neutral=tiny_pipelines.pictures(3, seed=1))
    grey = same.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert Pictures(grey).notes == ("all pictures are without colour: the token will learn that too",)
    assert Pictures(same).notes == ()


def test_tiny_pictures_and_empty_folders_are_refused_by_name(tmp_path):
    write(tmp_path / "small", 2, side=15)
    with pytest.raises(InputError, match=r"0\.png: 15 x 15 pixels is too small for a model of 32"):
        read_pictures(tmp_path / "small", 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture"):
        read_pictures(tmp_path / "empty", 32)
    write(tmp_path / "one", 1)
    with pytest.raises(InputError, match=f"{tmp_path}/one: one picture cannot"):
        read_pictures(tmp_path / "one", 32)


def test_emofaces_people_come_in_order_with_their_neutral_selves_and_their_descriptions():
    people = emofaces.portraits("concepts")
    who = people.identities[:2]
    found = pictures_of_people(people, who, "surprise", 64)
    assert found.images.shape == found.neutral.shape == (2, 3, 64, 64)
    for i, person in enumerate(who):
        for shown, emotion in ((found.images, "surprise"), (found.neutral, "neutral")):
            assert torch.equal(shown[i], resize(to_tensor(people.image(person, emotion)), 64)[0])
        assert found.descriptions[i] == emofaces.description(people.record(person, "neutral"))
    assert pictures_of_people(people, who, "surprise", 64, pairs=False).neutral is None
    with pytest.raises(InputError, match="no identity -1"):
        pictures_of_people(people, [-1], "surprise", 64)
