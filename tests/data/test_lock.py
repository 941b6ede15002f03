import threading

import pytest

from hubless.data import fetch
from hubless.data.lock import alone


def test_one_at_a_time_under_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    inside, seen = [], []
    first, go = threading.Event(), threading.Event()

    def work(number):
        with alone("one"):
            inside.append(number)
            seen.append(len(inside))
            if not first.is_set():
                first.set()
                go.wait(10)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    first.wait(10)
    with alone("another"):
        go.set()
    for thread in threads:
        thread.join(10)
    assert seen == [1, 1, 1]


def test_errors_pass_through_and_free_the_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    for _ in range(2):
        with pytest.raises(OSError, match="of the work"), alone("one"):
            raise OSError("of the work")


def test_without_a_cache_everyone_goes_in(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(fetch, "cache", lambda: blocked)
    monkeypatch.setattr("hubless.data.lock.cache", lambda: blocked)
    done = []
    with alone("one"):
        done.append(1)
    assert done == [1]
