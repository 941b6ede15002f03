import pytest

from hubless.data.arithmetic import ANSWER, LENGTH, strings


@pytest.mark.parametrize(("kind", "count"), [("add", 100), ("max", 100), ("both", 1000)])
def test_every_string_once_and_its_answer_right(kind, count):
    rows = strings(kind)
    assert rows.shape == (count, LENGTH)
    texts = {"".join(map(chr, row)) for row in rows}
    assert len(texts) == count
    for text in texts:
        said, answer = text[: ANSWER - 1].strip(), int(text[ANSWER])
        assert text[ANSWER - 1] == "="
        first, *rest = said.split("|")
        total = sum(map(int, first.split("+"))) % 10
        assert answer == max([total, *map(int, rest)])
