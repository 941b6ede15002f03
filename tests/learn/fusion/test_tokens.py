from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.fusion.tokens import align, co_aligned, edit_distance, same_start, token_map
from hubless.models.vocabulary import PAD, Vocabulary

LETTERS = st.text(alphabet="ab c", min_size=1, max_size=14)


def cut(text, places):
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 13), max_size=8)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2), ("same", "same", 0), ("abc", "ac", 1)],
)
def test_edit_distances(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@given(LETTERS, CUTS, CUTS)
@settings(max_examples=60, deadline=None)
def test_an_alignment_runs_from_end_to_end_without_going_back(text, here, there):
    source, pivot = cut(text, here), cut(text, there)
    places = align(source, pivot)
    assert len(places) == len(pivot)
    flat = [place for some in places for place in some]
    assert flat == sorted(flat)
    assert flat[0] == 0
    assert flat[-1] == len(source) - 1
    assert set(flat) == set(range(len(source)))


@given(LETTERS, CUTS, CUTS)
@settings(max_examples=60, deadline=None)
def test_what_is_said_to_start_together_does(text, here, there):
    source, pivot = cut(text, here), cut(text, there)
    for at, place in enumerate(same_start(source, pivot)):
        if place is not None:
            assert len("".join(source[:place])) == len("".join(pivot[:at]))


@given(LETTERS, CUTS)
@settings(max_examples=30, deadline=None)
def test_one_segmentation_is_aligned_with_itself(text, here):
    tokens = cut(text, here)
    assert same_start(tokens, tokens) == list(range(len(tokens)))


def test_characters_go_with_the_pair_that_holds_them():
    assert align(["de", "f", " x"], list("def x")) == [[0], [0], [1], [2], [2]]
    assert same_start(["de", "f", " x"], list("def x")) == [0, None, 1, 2, None]


def test_a_token_that_goes_with_several_has_no_counterpart():
    assert align(list("abc"), ["ab", "c"]) == [[0, 1], [2]]
    assert same_start(list("abc"), ["ab", "c"]) == [None, 2]


def test_segmentations_must_decode_to_one_text():
    with pytest.raises(ConfigError, match="do not decode to the same text"):
        same_start(["ab", "c"], ["a", "bd"])
    with pytest.raises(ConfigError, match="without tokens"):
        align([], ["a"])


def test_a_source_token_becomes_the_same_text_or_the_nearest():
    pivot, source = Vocabulary(), Vocabulary(("de", "  "))
    found = token_map(source, pivot)
    assert found[: len(pivot)] == list(range(len(pivot)))
    assert [pivot.pieces[at] for at in found[len(pivot) :]] == ["d", " "]
    back = token_map(pivot, source)
    assert back == list(range(len(pivot)))
    assert token_map(source, Vocabulary(("  ", "de"))) == [*range(257), 258, 257]


def test_the_most_often_aligned_token_wins_where_texts_say_so():
    pivot, source = Vocabulary(), Vocabulary(("de",))
    assert pivot.pieces[token_map(source, pivot, {("de", "e"): 3, ("de", "d"): 2})[-1]] == "e"
    assert pivot.pieces[token_map(source, pivot, {("de", "e"): 3, ("de", "d"): 3})[-1]] == "d"
    counts = co_aligned([(["de", "f"], list("def"))] * 2)
    assert counts == {("de", "d"): 2, ("de", "e"): 2, ("f", "f"): 2}


def test_special_tokens_go_by_their_names():
    assert token_map(Vocabulary(special=(PAD, "<end>")), Vocabulary(special=(PAD, "<begin>", "<end>")))[:2] == [0, 2]
    with pytest.raises(ConfigError, match="special token '<end>' has no counterpart in the pivot, which has '<pad>'"):
        token_map(Vocabulary(special=(PAD, "<end>")), Vocabulary())


def test_real_source_is_aligned_at_most_places():
    text = "def encode(self, header):\n    return header.encode('ascii')\n"
    codes = torch.tensor([ord(letter) for letter in text])
    source, pivot = Vocabulary.of(codes[None], 20), Vocabulary()
    pieces = source.split(codes)
    assert 10 < len(pieces) < len(text)
    found = same_start(pieces, pivot.split(codes))
    assert sum(place is not None for place in found) > 0.8 * len(pieces)
