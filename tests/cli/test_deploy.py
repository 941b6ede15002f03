"""A real deployment: processes, TLS on loopback, a peer that dies and a stranger that sends junk."""

import json
import os
import stat

import pytest

SMALL = ("dsgd", "--preset", "tiny", "--peers", "3", "--topology", "full", "--threads", "1", "--quiet")


def test_a_deployment_leaves_the_records_of_the_simulator(hubless, tmp_path):
    code, out, err = hubless(
        "deploy", *SMALL, "--rounds", "8", "--kill", "2@5", "--grace", "1", "--junk", "--out", "run"
    )
    assert (code, err) == (0, "")
    assert out.strip().endswith("report.html")
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records if record["kind"] == "round"] == list(range(1, 9))
    told = " ".join(record["data"]["text"] for record in records if record["kind"] == "event")
    assert "peer 2 is killed" in told
    assert "reject:" in told, "junk was dropped and counted"
    assert records[-1]["kind"] == "end"
    for key in (tmp_path / "run" / "nodes").glob("peer-*/key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for log in (tmp_path / "run" / "nodes").glob("peer-*/log.txt"):
        assert "Traceback" not in log.read_text()

    code, _, _ = hubless("run", *SMALL, "--rounds", "8", "--out", "simulated")
    assert code == 0
    other = [json.loads(line) for line in (tmp_path / "simulated" / "records.jsonl").read_text().splitlines()]
    rounds = [next(one for one in found if one["kind"] == "round")["metrics"] for found in (records, other)]
    assert rounds[0] == pytest.approx(rounds[1], rel=1e-5), "before anybody dies, all numbers are the simulator's"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--kill", "3"], "kill = '3': must be PEER@ROUND"),
        (["--kill", "9@1"], "kill = 9@1: the peers are 0 to 2"),
        (["--late", "1@2-3"], "late = '1@2-3': must be PEER@ROUND"),
        (["--late", "0@2,1@2,2@2"], "late: somebody must be there"),
        (["--cut", "1@4"], "cut = '1@4': must be PEER@FROM-TO"),
        (["--cut", "1@4-2"], "cut = '1@4-2': rounds count from 1"),
        (["--faults", "crash:1@2"], "faults = "),
        (["--round-seconds", "0"], "pace.period = 0"),
        (["--nonsense", "0"], "dsgd: unknown option 'nonsense'"),
    ],
)
def test_bad_options_are_refused_before_any_work(hubless, tmp_path, words, error):
    code, _, err = hubless("deploy", *SMALL, *words, "--out", "run")
    assert code == 2
    assert err.startswith(f"error: {error}"), err
    assert not (tmp_path / "run").exists()
    assert os.listdir(tmp_path) == []
