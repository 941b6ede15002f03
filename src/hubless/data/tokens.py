"""Text as tokens of a pre-trained model, for language modelling with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hubless.data.fetch import model_folder
from hubless.data.text import HELD_OUT, files
from hubless.errors import ConfigError

Tokens = NDArray[np.int64]


def token_windows(model: str, length: int, modules: Sequence[str]) -> tuple[Tokens, Tokens, Tokens, Tokens]:
    """Windows of ``length`` tokens of the modules' source: x [M, L], y [M, L] the token after each, then the test's.

    model: a folder with a tokenizer.json, or the name of a model in the cache

    The last tenth of every file is the test. Raises ConfigError without a tokenizer or without a window.
    """
    file = model_folder(model, "tokens") / "tokenizer.json"
    encode = _encoder(file)
    train: list[Tokens] = []
    test: list[Tokens] = []
    for path in [path for module in modules for path in files(module)]:
        text = path.read_text(encoding="utf-8")
        cut = len(text) - int(HELD_OUT * len(text))
        train.append(_windows(encode(text[:cut]), length))
        test.append(_windows(encode(text[cut:]), length))
    both = [np.concatenate(part) for part in (train, test)]
    for part, what in zip(both, ("training", "test"), strict=True):
        if not len(part):
            raise ConfigError(
                f"tokens: window = {length} leaves no {what} window in {','.join(modules)}; take a smaller one"
            )
    return both[0][:, :-1], both[0][:, 1:], both[1][:, :-1], both[1][:, 1:]


def _encoder(file: Path) -> Callable[[str], Tokens]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("tokens: needs a tokenizer; pip install 'hubless[llm]'") from None
    if not file.is_file():
        raise ConfigError(f"tokens: {file.parent} has no tokenizer.json")
    made = Tokenizer.from_file(str(file))
    return lambda text: np.array(made.encode(text, add_special_tokens=False).ids, np.int64)


def _windows(tokens: Tokens, length: int) -> Tokens:
    """Rows of length + 1 tokens, each starting at the last token of the one before it."""
    count = max(0, (len(tokens) - 1) // length)
    rows: Tokens = tokens[np.arange(count)[:, None] * length + np.arange(length + 1)]
    return rows
