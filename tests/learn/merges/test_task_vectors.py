"""Rules of model merging over an inbox: what the rules alone give, parameter by parameter."""

from dataclasses import replace

import boxes
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn import SGD, ServerOpt, Star
from hubless.learn.merges.task_vectors import Tensorwise, parameters
from hubless.learn.plan import DOWN
from hubless.merging import Dare, DareTies, TaskArithmetic, Ties
from hubless.parts import make

RULES = [TaskArithmetic(0.5), Ties(0.4), Ties(0.5, 0.8, False), Dare(0.5), DareTies(0.5)]


def test_parameters_lie_where_the_row_has_them():
    row = torch.arange(boxes.D)
    found = {}
    for group, at in boxes.MODEL.groups.items():
        found |= {name: row[at][part] for name, part in parameters(boxes.MODEL, at)}
        assert all(name.startswith(tuple({"trunk": ["0.", "1."], "head": ["2."]}[group])) for name in list(found)[-2:])
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.flatten().tolist() for name, value in boxes.MODEL.unflatten(row).items()
    }


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kind", ["model", "delta"])
def test_each_parameter_is_merged_by_the_rule(rule, kind):
    rows, start, weights = boxes.normal(1, 4, boxes.D), boxes.normal(2, boxes.D), torch.tensor([1.0, 2.0, 0.5, 1.5])
    ctx = boxes.context(start=start, kind=kind)
    joined = boxes.joined(Tensorwise(rule), rows, weights, ids=(0, 3, 5, 7), start=start, kind=kind)
    found = boxes.MODEL.unflatten(joined)
    base = boxes.MODEL.unflatten(start if kind == "model" else torch.zeros(boxes.D))
    models = [boxes.MODEL.unflatten(row) for row in rows]
    for name, value in found.items():
        alone = rule(
            [model[name] for model in models], weights=(weights / 5).tolist(), base=base[name],
            draw=lambda place, count, name=name: ctx.uniform(f"merge/{name}/{(0, 3, 5, 7)[place]}", (count,)),
        )  # fmt: skip
        torch.testing.assert_close(value, alone)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_order_of_the_inbox_does_not_matter(rule, seed, order):
    rows = boxes.normal(seed, 4, boxes.D)
    ids = (2, 4, 6, 8)
    turned = boxes.joined(Tensorwise(rule), rows[list(order)], ids=tuple(ids[i] for i in order))
    boxes.close(turned, boxes.joined(Tensorwise(rule), rows, ids=ids))


def test_scale_1_is_the_mean_and_two_steps_as_far_is_scale_2():
    rows, start = boxes.normal(1, 3, boxes.D), boxes.normal(2, boxes.D)
    boxes.close(boxes.joined(Tensorwise(TaskArithmetic()), rows, start=start), rows.mean(0))
    far = boxes.joined(Tensorwise(TaskArithmetic(2)), rows, start=start)
    boxes.close(far, 2 * rows.mean(0) - start)
    agreeing = start + (rows - start).abs()
    boxes.close(boxes.joined(Tensorwise(Ties(1.0)), agreeing, start=start), agreeing.mean(0))


def test_what_peers_disagree_about_stays_where_the_round_began_but_for_the_greater_sum():
    start = torch.zeros(boxes.D)
    rows = torch.ones(3, boxes.D) * torch.tensor([[1.0], [-4.0], [2.0]])
    boxes.close(boxes.joined(Tensorwise(Ties(1.0)), rows, start=start), torch.full((boxes.D,), -4.0))


def test_statistics_and_what_aggregators_send_down_get_the_mean():
    rows = boxes.normal(1, 3, boxes.D)
    statistics = list(boxes.normal(4, 3, 2))
    box = boxes.inbox(rows, torch.tensor([1.0, 1.0, 2.0]), statistics=statistics)
    found = Tensorwise(Ties(0.5))(box, rows[0], boxes.STATE, {}, boxes.context())
    expected = (statistics[0] + statistics[1] + 2 * statistics[2]) / 4
    torch.testing.assert_close(found[boxes.MEAN], expected)
    assert list(found) == ["trunk", "head", boxes.MEAN]
    boxes.close(boxes.joined(Tensorwise(Ties(0.5)), rows, phase=DOWN), rows.mean(0))


def test_names_that_few_sent_or_that_have_no_weight():
    box = boxes.inbox(boxes.normal(1, 2, boxes.D), torch.tensor([0.0, 1.0]))
    del box.messages[1]["head"]
    found = Tensorwise(Ties(1.0))(box, torch.zeros(boxes.D), boxes.STATE, {}, boxes.context())
    assert set(found) == {"trunk"}
    torch.testing.assert_close(found["trunk"], box.messages[1]["trunk"])


def test_dare_draws_anew_for_each_round_and_receiver():
    rows = torch.ones(1, boxes.D)
    one = boxes.joined(Tensorwise(Dare(0.5)), rows)
    assert set(one.tolist()) == {0.0, 2.0}
    assert torch.equal(one, boxes.joined(Tensorwise(Dare(0.5)), rows))
    later = replace(boxes.context(), peer=1, key=6)
    other = boxes.row(Tensorwise(Dare(0.5))(boxes.inbox(rows), rows[0], boxes.STATE, {}, later))
    assert not torch.equal(one, other)


FAR = ["ties:0.5", "dare:0.5", "dare-ties:0.5:rescale=l1", "task-arithmetic:0.7"]


@pytest.mark.parametrize(("merge", "overlay"), [*((text, Star()) for text in FAR), (FAR[0], None), (FAR[3], None)])
def test_peers_learn_with_it_and_the_same_every_time(merge, overlay):
    parts = {"merge": make("merge", merge), "local": SGD(lr=0.2, steps=3, batch=8), "rounds": 6}
    if overlay is not None:
        parts["overlay"] = overlay
    first = list(small.build(**parts).records())
    losses = [record.metrics["loss"] for record in first if record.kind == "round" and "loss" in record.metrics]
    assert losses[-1] < 0.8 * losses[0]
    assert [record.metrics for record in small.build(**parts).records()] == [record.metrics for record in first]


def test_a_server_optimiser_takes_it_for_its_deltas():
    merge = ServerOpt(Tensorwise(Ties(0.5)), rule="adam")
    records = list(small.build(merge=merge, overlay=Star(), rounds=3).records())
    assert records[-1].kind == "end"


@pytest.mark.parametrize("text", ["ties:0", "ties:1.5", "dare:-1", "task-arithmetic:nan", "dare:0.5:1:l2", "ties:a"])
def test_bad_values_are_refused(text):
    with pytest.raises(ConfigError, match="merge: "):
        make("merge", text)
