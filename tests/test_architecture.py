"""The shape of the house: which way imports point, how large a file gets, what no file may do."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hubless.parts import HOMES, parts

PACKAGE = Path(__file__).parents[1] / "src" / "hubless"
FILES = sorted(PACKAGE.rglob("*.py"))
DOMAINS = ("learn", "agents", "retrieve", "ledger", "infer", "control")
FOUNDATIONS = ("models", "net", "data", "merging")
MAY_IMPORT = {
    "run": (),
    "data": ("run",),
    "net": ("run",),
    "models": ("run", "data"),
    "merging": ("run",),
    **dict.fromkeys(DOMAINS, ("run", *FOUNDATIONS)),
    "recipes": ("run", *FOUNDATIONS, *DOMAINS),
    "report": ("run",),
}
# what every start imports
SPINE = ("errors", "options", "parts", "recipe", "recipe_file", "claims", "catalogue", "lab", "cli", "run")
HEAVY = ("torch", "numpy", "scipy", "networkx", "sklearn", "matplotlib", "safetensors", "jinja2", "pandas")
FORBIDDEN = {
    r"\bpickle\b|torch\.load\b|torch\.save\b": "pickle: write safetensors or JSON",
    r"(?<![\w.])(eval|exec)\(": "runs text as code",
    r"\bmanual_seed_all\b|torch\.(cuda\.)?manual_seed\(|np\.random\.seed|(?<!\w)random\.seed\(": "global random state",
    r"\bkwargs\.pop\b": "options are declared in a signature",
    r"\b(TODO|FIXME|XXX)\b": "an open end",
}
UNSEEDED = {  # above a transport: each makes two runs of a simulation differ, or loses a failure
    r"\btime\.time\(|\btime\.monotonic\(|\bdatetime\.now\(": "the clock of the machine: ask Network.now",
    r"\bos\.urandom\b|\buuid4\b|\bsecrets\.": "randomness without a seed: ask Network.rng",
    r"(?<![\w.])random\.(random|randint|choice|choices|shuffle|sample|uniform|getrandbits)\(": "the global generator",
    r"(?<![\w.])hash\(": "differs from process to process: use hashlib",
    r"\b(create_task|ensure_future)\(": "a task that nobody watches: use Network.spawn",
    r"\bas_completed\(": "an order that depends on addresses: use gather",
}
SEEDED = ("net/services", "net/crdt", "net/agent.py", "net/row_exchange.py", "ledger")
READS_SIGNATURES = {"recipe_file.py"}  # compiles signatures, and only those


def name(path):
    return str(path.relative_to(PACKAGE))


def imported(path, *, top_level=False):
    """Modules that a file imports; with ``top_level``, those that importing the file imports."""
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not (top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    if folder not in MAY_IMPORT:
        return
    allowed = {folder, *MAY_IMPORT[folder]}
    found = {module.split(".")[1] for module in imported(path) if module.startswith("hubless.")}
    wrong = sorted((found & set(MAY_IMPORT)) - allowed)
    if folder == "run":  # a run ends with its page
        wrong = [other for other in wrong if other != "report"]
    assert not wrong, f"{folder} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(PACKAGE).parts[0].split(".")[0] in SPINE], ids=name)
def test_the_spine_imports_nothing_heavy(path):
    heavy = {module.split(".")[0] for module in imported(path, top_level=True)} & set(HEAVY)
    assert not heavy, "import it inside the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_small_plainly_named_and_clean(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 600, "look for the second idea"
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, "name what it holds"
    for pattern, why in FORBIDDEN.items():
        if path.name in READS_SIGNATURES and "exec" in pattern:
            continue
        found = re.search(pattern, text)
        assert not found, f"{found and found[0]}: {why}"


@pytest.mark.parametrize("path", [p for p in FILES if name(p).startswith(SEEDED)], ids=name)
def test_what_stands_on_a_network_is_deterministic(path):
    text = path.read_text(encoding="utf-8")
    for pattern, why in UNSEEDED.items():
        found = re.search(pattern, text)
        assert not found, f"{found and found[0]}: {why}"


def test_every_part_can_be_reached_by_its_name():
    marks = re.compile(r"^@part\(\"([\w-]+)\", \"([\w-]+)\"\)", re.MULTILINE)
    marked = {(path.name, *mark) for path in FILES for mark in marks.findall(path.read_text(encoding="utf-8"))}
    lost = [mark for mark in marked if mark[1] not in HOMES or mark[2] not in parts(mark[1])]
    assert not lost, "their module must be in parts.HOMES, or be imported by one that is"
    assert len(marked) > 10, "the pattern no longer matches how parts are registered"
    for kind in HOMES:
        for module in HOMES[kind]:
            importlib.import_module(module)
        assert all(made.__doc__ for made in parts(kind).values())


@pytest.mark.parametrize(
    "words", [["--help"], ["list"], ["show", str(Path(__file__).parent / "cli" / "toy.py")], ["run", "--help"]]
)
def test_light_commands_import_nothing_heavy(words):
    script = (
        "import sys, time; from hubless.cli import main; code = main(sys.argv[1:]);"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), round(time.process_time(), 2), 'CPU-s', file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    print(*words, done.stderr)
    assert done.stderr.startswith("[]"), done.stderr
    assert done.stdout
