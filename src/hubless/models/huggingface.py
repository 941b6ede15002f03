"""Hugging Face models as peers: one frozen base in the process, adapters of its own for every peer.

``Model(adapted(base, LoraConfig(...)), task="language")`` makes a peer of any causal language model with any ``peft``
method; what ``peft`` leaves trainable is the peer's row, megabytes instead of the base's gigabytes. A classifier is the
same with ``task="classification"``. ``hf:FOLDER`` and ``smollm2`` are the same as parts, with LoRA.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hubless.data.fetch import model_folder
from hubless.errors import ConfigError
from hubless.options import Count
from hubless.parts import part

Architecture = Callable[[tuple[int, ...], int], nn.Module]
MISSING = "needs transformers and peft; pip install 'hubless[llm]'"


class Outputs(nn.Module):
    """A Hugging Face model as a function of tokens ``[B, L]``.

    Logits ``[B, L, V]`` of a language model, of the next token at every position (virtual tokens of a prompt are left
    out), or ``[B, C]`` of a classifier, which attends to everything but its padding token.
    """

    traceable: ClassVar[bool] = False  # its forward is no sequence of plain tensor operations

    def __init__(self, inner: nn.Module, padding: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        mask = {} if self.padding is None else {"attention_mask": (x != self.padding).long()}
        logits: Tensor = self.inner(input_ids=x, **mask).logits
        return logits[:, -x.shape[1] :] if logits.dim() == 3 else logits


def adapted(base: Any, config: Any = None) -> Callable[[], nn.Module]:
    """How to build a peer's network from a ``transformers`` model and a ``peft`` config.

    Every network has adapters of its own and the same base, which is frozen and stored once. Without a config all of
    the model is copied and trained.
    """
    if config is None:
        return lambda: Outputs(copy.deepcopy(base).requires_grad_(True), _padding(base))
    try:
        from peft import get_peft_model
    except ImportError:
        raise ConfigError(f"model: an adapter {MISSING}") from None
    for p in base.parameters():
        p.requires_grad_(False)
    stored = {id(p): p for p in base.parameters()}

    def build() -> nn.Module:
        own = copy.deepcopy(base, dict(stored))
        with warnings.catch_warnings():  # peft asks for an attribute that transformers 5 calls by another name
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            return Outputs(get_peft_model(own, copy.deepcopy(config)), _padding(base))

    return build


def _padding(base: Any) -> int | None:
    """The padding token of a classifier; windows of text have none."""
    classifies = "Classification" in type(base).__name__
    token: int | None = base.config.pad_token_id if classifies else None
    return token


@lru_cache(maxsize=2)
def base(folder: str, labels: int = 0) -> Any:
    """The model in a folder, in float32: a causal language model, or a classifier of so many labels.

    Raises ConfigError for a folder that ``transformers`` cannot load, and where it is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        from transformers.utils import logging
    except ImportError:
        raise ConfigError(f"model: hf {MISSING}") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind, more = (AutoModelForSequenceClassification, {"num_labels": labels}) if labels else (AutoModelForCausalLM, {})
    try:
        model = kind.from_pretrained(folder, local_files_only=True, dtype="float32", **more)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {folder} holds no model that transformers can load: {error}") from None
    model.config.use_cache = False
    return model


def untrained(config: Any, seed: int = 0) -> Any:
    """A causal language model of a ``transformers`` config, with random weights that depend on the seed only."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.config.use_cache = False
    return model


@lru_cache(maxsize=2)
def tokenizer(folder: str) -> Any:
    """The tokenizer in a folder. Raises ConfigError where there is none."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError(f"model: a tokenizer {MISSING}") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {folder} holds no tokenizer that transformers can load: {error}") from None


@part("model", "hf")
def hf(
    folder: str,
    rank: Count = 8,
    alpha: Count = 16,
    layers: str = "q_proj,v_proj",
    task: Literal["language", "classification"] = "language",
) -> Architecture:
    """A Hugging Face model in a folder, frozen, with LoRA of some rank on the named layers: ``hf:FOLDER:8``."""

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        try:
            from peft import LoraConfig
        except ImportError:
            raise ConfigError(f"model: an adapter {MISSING}") from None
        found = base(str(model_folder(folder)), outputs if task == "classification" else 0)
        width = found.config.num_labels if task == "classification" else found.config.vocab_size
        if outputs > width:
            raise ConfigError(f"model: {folder} has {width} outputs, the data needs {outputs}; take its own tokens")
        kind = "SEQ_CLS" if task == "classification" else "CAUSAL_LM"
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers.split(","), task_type=kind)
        return adapted(found, config)()

    return build


@part("model", "smollm2")
def smollm2(rank: Count = 8, alpha: Count = 16, layers: str = "q_proj,v_proj") -> Architecture:
    """SmolLM2-135M-Instruct, frozen, with LoRA: ``smollm2:4``; 'hubless models get smollm2' fetches it once."""
    return hf("smollm2", rank, alpha, layers)
