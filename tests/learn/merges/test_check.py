"""``check_merge`` tells the author of a broken merge the usual fix."""

from dataclasses import dataclass

import pytest

from hubless.learn import Reduce
from hubless.testing import check_merge


@dataclass(frozen=True)
class Closest(Reduce):
    """Reads where the round began without saying so."""

    def __call__(self, inbox, w, s, book, ctx):
        return {name: ctx.start[ctx.model.groups[name]] + 0 * inbox.stack(name).mean(0) for name in inbox.names}


@dataclass(frozen=True)
class Spread(Reduce):
    """Divides by a variance that one message does not have."""

    def __call__(self, inbox, w, s, book, ctx):
        values = {name: inbox.stack(name) for name in inbox.names}
        return {name: v.mean(0) + 0 * v.var(0, correction=0).rsqrt() for name, v in values.items()}


@dataclass(frozen=True)
class Greedy(Reduce):
    """Adds up in the first message."""

    def __call__(self, inbox, w, s, book, ctx):
        first = inbox.messages[0]
        for m in inbox.messages[1:]:
            for name, value in m.items():
                first[name].add_(value)
        return {name: value / len(inbox.weights) for name, value in first.items()}


@dataclass(frozen=True)
class Hoarder(Reduce):
    """Keeps what no checkpoint can."""

    vectorised = False

    def __call__(self, inbox, w, s, book, ctx):
        book["seen"] = set(inbox.ids)
        return {name: inbox.stack(name).mean(0) for name in inbox.names}


@pytest.mark.parametrize(
    ("reduce", "fix"),
    [
        (Closest(), "starts = True if it reads"),
        (Spread(), r"not finite for 1 of 5 messages; do with less"),
        (Greedy(), "make new tensors"),
        (Hoarder(), "book entry 'sseen' is a set: keep tensors and what JSON knows"),
    ],
)
def test_a_broken_reduce_is_told_the_usual_fix(reduce, fix):
    with pytest.raises(AssertionError, match=fix):
        check_merge(reduce)
