import numpy as np
import pytest
import torch
from boxes import D, close, joined, message, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.learn.context import Inbox
from hubless.learn.merges import FoolsGold, foolsgold_weights

many = settings(max_examples=60, deadline=None)


def official(similarities):
    """The released code's steps, loop by loop; its 0.99 in place of 1 changes nothing, its 0/0 has a guard here."""
    n = len(similarities)
    cs = similarities * (1 - np.eye(n))
    most = cs.max(axis=1) + 1e-5
    for i in range(n):
        for j in range(n):
            if i != j and most[i] < most[j]:
                cs[i][j] = cs[i][j] * most[i] / most[j]
    wv = np.clip(1 - cs.max(axis=1), 0, 1)
    if wv.max() == 0:
        return wv
    wv = wv / wv.max()
    wv[wv == 1] = 0.99
    wv[wv == 0] = 1e-9
    return np.clip(np.log(wv / (1 - wv)) + 0.5, 0, 1)


@many
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 9999))
def test_weights_are_those_of_the_released_code(count, dimensions, seed):
    rows = torch.nn.functional.normalize(normal(seed, count, dimensions).double(), dim=1)
    similarities = rows @ rows.T
    weights = foolsgold_weights(similarities)
    np.testing.assert_allclose(weights.numpy(), official(similarities.numpy().copy()), atol=1e-9)
    assert float(weights.min()) >= 0
    assert float(weights.max()) in (0.0, 1.0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_weights_are_never_no_numbers(value):
    for count in (1, 2, 5):
        assert torch.isfinite(foolsgold_weights(torch.full((count, count), value))).all()
    assert foolsgold_weights(torch.ones(1, 1)).tolist() == [1.0]
    assert foolsgold_weights(torch.ones(3, 3)).tolist() == [0.0, 0.0, 0.0]


def test_identities_of_one_attacker_lose_their_weight_and_others_keep_theirs():
    honest, attacker = normal(0, 4, D), normal(1, D)
    rows = torch.cat([honest, attacker.expand(5, D)])
    close(joined(FoolsGold(), rows), honest.mean(0), within=0.35)
    book = {}
    for t in range(10):
        noise = 0.5 * normal(2 + t, 9, D)  # no two messages are alike, but their sums are
        answer = joined(FoolsGold(), rows + noise, book=book)
    kept = torch.stack([torch.cat(list(book["foolsgold"][i].values())) for i in range(9)])
    weights = foolsgold_weights(torch.corrcoef(torch.cat([kept, -kept], dim=1)))
    assert weights[4:].tolist() == [0] * 5
    assert float(weights[:4].min()) > 0.5
    assert float((answer - honest.mean(0)).norm()) < float((answer - attacker).norm())


def test_histories_are_sums_of_updates_by_sender():
    book, start = {}, normal(9, D)
    for t, ids in enumerate([(0, 1, 2), (0, 2), (2, 5)]):
        joined(FoolsGold(), normal(t, len(ids), D), book=book, ids=ids, start=start)
    found = {sender: torch.cat(list(parts.values())) for sender, parts in book["foolsgold"].items()}
    assert set(found) == {0, 1, 2, 5}
    close(found[1], normal(0, 3, D)[1] - start)
    close(found[2], normal(0, 3, D)[2] + normal(1, 2, D)[1] + normal(2, 2, D)[0] - 3 * start)


def test_of_deltas_the_update_is_the_delta():
    book = {}
    joined(FoolsGold(), normal(0, 2, D), book=book, kind="delta", start=normal(1, D))
    close(torch.cat(list(book["foolsgold"][1].values())), normal(0, 2, D)[1])


def test_when_all_are_alike_one_keeps_ones_own_and_without_own_where_one_began():
    rows, start = normal(0, D).expand(3, D), normal(1, D)
    close(joined(FoolsGold(), rows, start=start), rows[0])
    close(joined(FoolsGold(), rows, start=start, ids=(4, 5, 6)), start)


def test_senders_may_say_other_names_another_time():
    book, rows = {}, normal(0, 3, D)
    joined(FoolsGold(), rows, book=book)
    said = [message(row) for row in rows]
    del said[1]["head"]
    from boxes import STATE, context

    got = FoolsGold()(Inbox((0, 1, 2), torch.ones(3), said), rows[0], STATE, book, context())
    assert set(got) == {"trunk", "head"}
    close(book["foolsgold"][1]["head"], message(rows[1])["head"])
