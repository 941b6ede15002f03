import subprocess
import sys

import pytest

from hubless.cli import doctor


def test_this_machine_is_well(hubless):
    code, out, err = hubless("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    seen = {line[5:18].strip() for line in lines}
    assert {"Python", "torch", "loopback", "TLS", "Ed25519", "key files", "machine", "clock"} <= seen
    assert not [line for line in lines if line.startswith("BAD")]


def test_what_is_missing_is_named_and_the_exit_code_is_1(hubless, monkeypatch):
    bad = doctor.Finding("bad", "torch", "does not work; pip install torch")
    monkeypatch.setattr(doctor, "_torch", lambda: bad)
    code, out, _ = hubless("doctor")
    assert code == 1
    assert "BAD  torch        does not work; pip install torch" in out


def test_an_extra_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(
        doctor, "metadata", lambda _: Lines(['ray>=2.40; extra == "ray"', "torch>=2", 'x; extra == "dev"'])
    )
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert list(doctor._extras()) == [doctor.Finding("note", "ray", "ray not installed: pip install 'hubless[ray]'")]


class Lines:
    def __init__(self, lines):
        self.lines = lines

    def get_all(self, _):
        return self.lines


@pytest.mark.parametrize("text", ["here", "here:", ":80", "here:0", "here:99999"])
def test_a_server_must_be_an_address(hubless, text):
    code, out, err = hubless("doctor", "--stun", text)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: stun = {text!r}: must be HOST:PORT")


def test_nothing_heavy_comes_before_its_turn():
    script = (
        "import sys; from hubless.cli import doctor; assert 'torch' not in sys.modules;"
        "found = doctor.findings([]); next(found); print(sorted({'torch', 'ssl', 'cryptography'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
