"""What is measured of one task: each judge looks once at what is new, and the numbers are its own."""

import pytest
import torch
from evaluation_world import home  # noqa: F401

from emolib.evaluation import measure, tasks
from emolib.judges import emotion as judges
from emolib.metrics import emotion, quality


@pytest.fixture(scope="module")
def seen():
    """(decoded task, edits: the source, the truth and a blend of both; judge, known, columns, passes)."""
    task = tasks.load_tasks("emofaces:test", targets=("anger", "awe", "fear")).tasks[0]
    judge = judges.load_judge("heldout", device="cpu")
    decoded = measure.decode_task(task, whole=True, side=judge.size)
    tools = measure.Instruments(judge)
    known = measure.measure_reference(decoded, tools)
    source, truth = decoded.source, decoded.truths
    edits = torch.cat([source, truth[1:2], torch.lerp(source, truth[2:3], 0.4)])
    passes = []
    hook = judge.network.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    columns = measure.measure_edits(decoded, edits, known, tools)
    hook.remove()
    return decoded, edits, judge, known, columns, passes


def test_the_judge_looks_once_at_what_is_new(seen):
    decoded, edits, _, _, _, passes = seen
    recoloured = quality.match_colours(edits, decoded.source.expand_as(edits))
    # The source was judged before, also with its own colours; the truth with the source's colours was not.
    assert torch.equal(recoloured[0], edits[0]) and not torch.equal(recoloured[1], edits[1])
    assert passes == [1 + 2]


def test_numbers_are_the_judges_own(seen):
    decoded, edits, judge, known, columns, _ = seen
    target = torch.tensor([judge.labels.index(person.emotion) for _, person in decoded.rows])
    before = judge(decoded.source).probs.expand(3, -1)
    recoloured = quality.match_colours(edits, decoded.source.expand_as(edits))
    for name, shown in (("emo_s", edits), ("emo_s_colour", recoloured)):
        own = torch.cat([judge(one[None]).probs for one in shown])
        wanted = emotion.emotion_score(own, before, target)
        torch.testing.assert_close(torch.from_numpy(columns[name]), wanted, atol=1e-5, rtol=1e-4)
    assert columns["emo_s"][0] == columns["emo_s_colour"][0] == 0  # exactly: it is the source
    assert (columns["probs"][1] == known["truth_probs"][1]).all()
    assert columns["emo_s"][2] != columns["emo_s_colour"][2]
