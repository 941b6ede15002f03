"""Merging models on disk: time, and memory beside that of the largest tensor.

    python benchmarks/merging.py --models 3 --mergekit /path/to/python

Models have the names and shapes of SmolLM2-135M in bfloat16 (269 MB in a file, the largest tensor 57 MB), with random
values. Each contestant runs in a process of its own with one torch thread; peak memory is that of the process, and the
other figure what it grew by after everything was imported. ``in memory`` is ``hubless.merging.merge`` on models that
were loaded whole. With ``--mergekit``, the python of an environment that has it merges the same folders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

RULES = ("mean", "slerp", "task-arithmetic", "ties:0.5", "dare:0.5", "dare-ties:0.5")
THEIRS = {"mean": "linear", "slerp": "slerp", "task-arithmetic": "task_arithmetic", "ties:0.5": "ties",
          "dare:0.5": "dare_linear", "dare-ties:0.5": "dare_ties"}  # fmt: skip
WIDTH, HIDDEN, KEYS, LAYERS, WORDS = 576, 1536, 192, 30, 49152

OURS = """
from pathlib import Path
from hubless.merging.files import prepare
from hubless.parts import make
rule = make("rule", given["rule"])
start()
base = Path(given["base"]) if rule.needs_base else None
prepare(rule, [Path(m) for m in given["models"]], base=base).write(Path(given["out"]), force=True)
"""
WHOLE = """
from pathlib import Path
from safetensors.torch import load_file, save_file
from hubless.merging import merge
from hubless.parts import make
rule = make("rule", given["rule"])
start()
models = [load_file(f"{m}/model.safetensors") for m in given["models"]]
base = load_file(f"{given['base']}/model.safetensors") if rule.needs_base else None
save_file(merge(rule, models, base=base), given["out"] + ".safetensors")
"""
MERGEKIT = """
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
method = given["theirs"]
models = [{"model": m, "parameters": {"weight": 1.0, "density": 0.5}} for m in given["models"]]
config = {"merge_method": method, "models": models}
if method == "slerp":
    config |= {"base_model": given["models"][0], "parameters": {"t": 0.5}}
elif method != "linear":
    config["base_model"] = given["base"]
start()
run_merge(MergeConfiguration.model_validate(config), given["out"] + "-theirs",
          MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, lazy_unpickle=True))
"""
AROUND = """
import json, sys, time
import torch
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
def memory(which):
    status = open("/proc/self/status").read()
    return int(status.split(which)[1].split()[0]) / 1000
def start():
    global before, began, worked
    open("/proc/self/clear_refs", "w").write("5")  # the peak so far is that of the imports
    before, began, worked = memory("VmRSS:"), time.perf_counter(), time.process_time()
{work}
print(json.dumps({{"seconds": time.perf_counter() - began, "cpu": time.process_time() - worked,
                   "peak": memory("VmHWM:"), "grown": memory("VmHWM:") - before}}))
"""


def shapes() -> dict[str, tuple[int, ...]]:
    """Those of SmolLM2-135M."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        for name, shape in {
            "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KEYS, WIDTH), "self_attn.v_proj": (KEYS, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH),
            "mlp.down_proj": (WIDTH, HIDDEN), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }.items():  # fmt: skip
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return found


def write(folder: Path, seed: int) -> str:
    """A model folder of random values around those of seed 0."""
    folder.mkdir()
    start, own = (torch.Generator().manual_seed(s) for s in (0, seed))
    tensors = {}
    for name, shape in shapes().items():
        values = torch.randn(shape, generator=start) * 0.02
        tensors[name] = (values + 0.002 * torch.randn(shape, generator=own) * bool(seed)).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "vocab_size": WORDS,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def measured(python: str, work: str, given: dict[str, object]) -> dict[str, float]:
    """Seconds, peak MB and MB that a process grew by."""
    command = [python, "-c", AROUND.format(work=work), json.dumps(given)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--mergekit", default="", help="python of an environment with mergekit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, *models = (write(Path(folder) / f"m{seed}", seed) for seed in range(options.models + 1))
        size = (Path(base) / "model.safetensors").stat().st_size / 1e6
        print(f"{options.models} models of {size:.0f} MB, largest tensor {WORDS * WIDTH * 2 / 1e6:.0f} MB\n")
        print("| method | | s | CPU s | peak MB | grew by MB |\n|---|---|---|---|---|---|")
        for rule in options.rules.split(","):
            used = models[:2] if rule == "slerp" else models
            given: dict[str, object] = {"rule": rule, "models": used, "base": base, "out": f"{folder}/out",
                                        "theirs": THEIRS[rule]}  # fmt: skip
            contestants = {"hubless merge": (sys.executable, OURS), "in memory": (sys.executable, WHOLE)}
            if options.mergekit:
                contestants["mergekit"] = (options.mergekit, MERGEKIT)
            for name, (python, work) in contestants.items():
                found = measured(python, work, given)
                figures = f"{found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:.0f} | {found['grown']:.0f}"
                print(f"| {rule} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
