"""Which tokens of one model are which of another: segmentations of a text aligned, vocabularies mapped.

Token alignment by minimum edit distance as in FuseLLM (arXiv 2401.10491, section 3.3; official code ``dtw``), with the
discount for tokens that contain each other of its successor FuseChat (arXiv 2402.16107; ``align_token_and_vocab.py``):
without it a character is as far from a pair that it belongs to as from any other character.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from hubless.errors import ConfigError
from hubless.models.vocabulary import Vocabulary

CONTAINED = 0.1  # factor on the distance between a token and one that contains it
ELSEWHERE = 1e-3  # between tokens that lie at different places of the text, so that of equal alignments one is right


@lru_cache(maxsize=1 << 18)
def edit_distance(a: str, b: str) -> int:
    """Fewest characters to insert, delete or replace that make ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


@lru_cache(maxsize=1 << 18)
def _apart(a: str, b: str) -> float:
    return edit_distance(a, b) * (CONTAINED if a in b or b in a else 1.0)


def align(source: Sequence[str], pivot: Sequence[str]) -> list[list[int]]:
    """For each token of ``pivot`` the places of the tokens of ``source`` that it goes with, at least one.

    Both are segmentations of one text. The pairs run from the first tokens to the last ones without going back, and
    the edit distances between paired tokens have the least sum (dynamic programming); where text repeats itself, many
    alignments have it, and those are taken that pair tokens at one place. Raises ConfigError for a segmentation without
    tokens.
    """
    if not source or not pivot:
        raise ConfigError("alignment: a text without tokens cannot be aligned")
    here, there = _spans(source), _spans(pivot)
    total = _least([
        [_apart(one, other) + ELSEWHERE * (a >= d or c >= b) for other, (c, d) in zip(pivot, there, strict=True)]
        for one, (a, b) in zip(source, here, strict=True)
    ])  # fmt: skip
    i, j = len(source) - 1, len(pivot) - 1
    found: list[list[int]] = [[] for _ in pivot]
    found[j].append(i)
    while i or j:
        ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min((way for way in ways if min(way) >= 0), key=lambda way: total[way[0]][way[1]])
        found[j].append(i)
    return [places[::-1] for places in found]


def _least(cost: list[list[float]]) -> list[list[float]]:
    """The least sum on the way from the first pair to each other one, in place of its cost."""
    above = [math.inf] * len(cost[0])
    for i, row in enumerate(cost):
        left = corner = math.inf if i else 0.0
        for j, here in enumerate(row):
            best = min(above[j], left, corner)
            corner, left = above[j], here + best
            row[j] = left
        above = row
    return cost


def _spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where in the text each token begins and ends."""
    return list(pairwise(accumulate(map(len, tokens), initial=0)))


def same_start(source: Sequence[str], pivot: Sequence[str]) -> list[int | None]:
    """For each token of ``pivot`` the one token of ``source`` that it is aligned with, if both begin at one character.

    None where it goes with several tokens, where one begins inside the other, and where the alignment is wrong: what is
    paired must lie at one place of the text, which decoding tells. Raises ConfigError for segmentations of two texts.
    """
    if "".join(source) != "".join(pivot):
        raise ConfigError("alignment: the two segmentations do not decode to the same text")
    here, there = _spans(source), _spans(pivot)
    return [
        places[0] if len(places) == 1 and here[places[0]][0] == there[at][0] else None
        for at, places in enumerate(align(source, pivot))
    ]


def token_map(source: Vocabulary, pivot: Vocabulary, counts: Mapping[tuple[str, str], int] | None = None) -> list[int]:
    """The pivot's token for every token of the source ``[V]``.

    The same text, if the pivot has it; else the token that it was aligned with most often, where ``counts`` of pairs
    (source, pivot) say so; else the nearest by edit distance, of equals one that it begins with. Special tokens go by
    their names: raises ConfigError for one that the pivot does not have.
    """
    if unmapped := [name for name in source.special if name not in pivot.special]:
        raise ConfigError(
            f"vocabulary: the source's special token {unmapped[0]!r} has no counterpart in the pivot, which has"
            f" {', '.join(map(repr, pivot.special))}; give both the same special tokens"
        )
    specials = [pivot.special.index(name) for name in source.special]
    place = {pivot.pieces[at]: at for at in range(len(pivot.special), len(pivot))}
    plain = source.pieces[len(source.special) :]
    return specials + [place[piece] if piece in place else _nearest(piece, place, counts or {}) for piece in plain]


def _nearest(piece: str, place: Mapping[str, int], counts: Mapping[tuple[str, str], int]) -> int:
    def order(other: str) -> tuple[int, float, bool]:
        return -counts.get((piece, other), 0), _apart(piece, other), not piece.startswith(other)

    return place[min(place, key=order)]


def co_aligned(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Counter[tuple[str, str]]:
    """How often each (source, pivot) pair of tokens was aligned in texts given in both segmentations."""
    found: Counter[tuple[str, str]] = Counter()
    for source, pivot in pairs:
        for token, places in zip(pivot, align(source, pivot), strict=True):
            found.update((source[at], token) for at in places)
    return found
