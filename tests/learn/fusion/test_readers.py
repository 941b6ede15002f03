import numpy as np
import pytest
import torch

from hubless.errors import ConfigError
from hubless.learn.fusion.readers import Chapters, Domain, dataset, reader
from hubless.models.vocabulary import Vocabulary


def test_public_texts_are_apart_from_training_and_test():
    whole, domain = Domain("fnmatch,shlex", 32), Domain("fnmatch,shlex", 32, 10)
    assert domain.shared.shape == (10, 32)
    assert len(domain.shared) + len(domain.train) == len(whole.train)
    assert torch.equal(domain.test, whole.test)
    rows = {tuple(row) for row in whole.train.tolist()}
    assert {tuple(row) for row in torch.cat([domain.shared, domain.train]).tolist()} == rows
    assert torch.equal(whole.shared, whole.train[:0])


def test_more_public_texts_than_there_are():
    with pytest.raises(ConfigError, match="texts = 100000: fnmatch has only"):
        _ = Domain("fnmatch", 32, 100_000).shared


def test_a_peer_may_have_no_text():
    parts = Chapters((2, 0, 3)).split(np.zeros((5, 4), np.int64), 3, 0)
    assert [part.tolist() for part in parts] == [[0, 1], [], [2, 3, 4]]
    for peers, count in ((2, 5), (3, 6)):
        with pytest.raises(ConfigError, match="does not share"):
            Chapters((2, 0, 3)).split(np.zeros((count, 4), np.int64), peers, 0)


def test_texts_are_their_own_targets():
    texts = torch.arange(12).reshape(3, 4)
    data = dataset([texts[:2]], [texts[2:]])
    assert data.task == "language"
    assert (data.x == data.y).all()
    assert (data.test_x == texts[2:].numpy()).all()


def test_a_reader_is_judged_a_character():
    model = reader(Vocabulary(("ab",)), 4, 8)
    texts = torch.full((2, 4), ord("a"))
    assert model.loss(model.forward(model.start(0), texts), texts).shape == (2,)
    with pytest.raises(ConfigError, match="width = 6: must be a multiple"):
        reader(Vocabulary(), 8, 6)
