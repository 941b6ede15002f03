"""A virtual environment a peer framework, under ``.venvs``: their requirements contradict each other and ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parent / ".venvs"

# Runs in the new environment: what the framework asks for, with markers applied, as pip wants it.
REQUIREMENTS = """
import json, sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
name, extra = sys.argv[1:]
found = [Requirement(line) for line in requires(name) or []]
found = [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]
print(json.dumps({r.name: r.name + (f"[{','.join(r.extras)}]" if r.extras else "") + str(r.specifier) for r in found}))
"""


# FedLab and gossipy import torchvision for data sets that the work never touches, and it has no build for every
# build of torch. Every name in this stand-in is an empty class.
STAND_IN = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
"""


@dataclass(frozen=True)
class Framework:
    """What to install.

    spec:  name and exact version
    extra: the extra that its simulation needs
    also:  what it imports without asking for it
    any:   requirements taken in any version
    torchvision: whether it imports torchvision and gets a stand-in
    """

    spec: str
    extra: str = ""
    also: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    torchvision: bool = False


FRAMEWORKS = {
    "pfl": Framework("pfl==0.6.0", also=("numpy",)),
    # Root certificates: only reached over the network, which a simulation does not use.
    "flower": Framework("flwr==1.42.0", extra="simulation", any=("certifi",)),
    "fedlab": Framework("fedlab==1.3.0", also=("pillow",), torchvision=True),
    "gossipy": Framework("gossipy-dfl==0.0.1", torchvision=True),
}


def python(name: str) -> Path:
    """The interpreter of a framework's environment, made on first use with the torch that we run.

    Raises RuntimeError with pip's last words when the installation fails; nothing half-made stays.
    """
    folder = HOME / name
    interpreter = folder / "bin" / "python"
    if (folder / "complete").exists():
        return interpreter
    print(f"making {folder} ...", file=sys.stderr, flush=True)
    try:
        _call(sys.executable, "-m", "venv", "--clear", str(folder))
        _install(interpreter, FRAMEWORKS[name])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "complete").touch()
    return interpreter


def _install(interpreter: Path, framework: Framework) -> None:
    package = framework.spec.partition("==")[0]
    torch = f"torch=={version('torch').partition('+')[0]}"
    pip = (str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _call(*pip, "--no-deps", framework.spec)
    wanted = json.loads(_call(str(interpreter), "-c", REQUIREMENTS, package, framework.extra))
    wanted.pop("torchvision", None)
    _call(*pip, torch, *(name if name in framework.any else spec for name, spec in wanted.items()), *framework.also)
    if framework.torchvision:
        site = Path(_call(str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        folder = site / "torchvision"
        folder.mkdir()
        (folder / "__init__.py").write_text("from . import datasets, transforms\n" + STAND_IN)
        for name in ("datasets", "transforms"):
            (folder / f"{name}.py").write_text(STAND_IN)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} failed: {done.stderr.strip()[-400:]}")
    return done.stdout
