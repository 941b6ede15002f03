"""The examples of CONTRIBUTING.md are complete: they run as they stand."""

import re
from pathlib import Path

from hubless import catalogue
from hubless.testing.net import check_topology

RECIPE, PART = re.findall(
    r"^```python\n(.*?)^```", (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_the_part_and_the_recipe_work_together(tmp_path):
    (tmp_path / "triangle_ring_of_the_page.py").write_text(PART)
    (tmp_path / "chatty.py").write_text(RECIPE + "\nimport triangle_ring_of_the_page\n")
    entry = catalogue.find(tmp_path / "chatty.py")
    assert entry.summary.startswith("Chatty gossip")
    assert entry.schema().options["exchanges"].help == "how often peers average with their neighbours in a round"
    assert [statement.text for statement in entry.statements] == ["more exchanges, closer peers"]
    records = entry.load().build({"topology": "triangle-ring:2", "peers": 5}, "tiny").records()
    assert len(next(records).data["edges"]) == 10
    check_topology("triangle-ring:3")


def test_its_make_targets_exist():
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"`make (\w+)`", text)) | set(re.findall(r"^    make (\w+)", text, re.MULTILINE))
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    missing = [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    assert not missing
    assert targets
