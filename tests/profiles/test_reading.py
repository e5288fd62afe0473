"""Corpora: which documents there are, in which order, and what is said of those that cannot be read."""

import json
import os

import pytest

from pellucid.profiles.reading.texts import Texts


def read(path, **options):
    return [(one.number, one.name, one.text, one.reason) for one in Texts(path, **options)]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("two\nlines")
    (tmp_path / "c.txt").write_text("three")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n"and"\n')
    (tmp_path / ".hidden").write_text("none")
    assert read(tmp_path) == [
        (0, "a.jsonl:1", "one", ""),
        (1, "a.jsonl:3", "and", ""),
        (2, "b/two.txt", "two\nlines", ""),
        (3, "c.txt", "three", ""),
    ]


def test_a_text_file_holds_a_document_a_line(tmp_path):
    path = tmp_path / "all.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n \n\ntwo")
    assert read(path) == [(0, "all.txt:1", "one", ""), (1, "all.txt:4", "two", "")]


def test_what_cannot_be_read_keeps_its_number(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes(b" \n")
    (tmp_path / "c.jsonl").write_text('{"text": 3}\n{"body": "x"}\n{\n{"text": "fine"}\n"\\ud800"\n')
    (tmp_path / "d.txt").symlink_to(tmp_path / "gone.txt")
    os.mkfifo(tmp_path / "e.txt")
    assert read(tmp_path) == [
        (0, "a.txt", None, "is no UTF-8 text (byte 0xe9 at 3)"),
        (1, "b.txt", None, "is empty"),
        (2, "c.jsonl:1", None, "is no text but a number"),
        (3, "c.jsonl:2", None, "has no field 'text'"),
        (4, "c.jsonl:3", None, "is no JSON"),
        (5, "c.jsonl:4", "fine", ""),
        (6, "c.jsonl:5", None, "is no valid text: it holds half of a surrogate pair"),
        (7, "d.txt", None, "no such file or directory"),
        (8, "e.txt", None, "it is no plain file"),
    ]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["one", None, "three"], "n": [1, 2, 3]}), path)
    assert read(path, field="body") == [
        (0, "a.parquet:1", "one", ""),
        (1, "a.parquet:2", None, "is no text but null"),
        (2, "a.parquet:3", "three", ""),
    ]
    assert read(path) == [(0, "a.parquet", None, "has no column 'text', but 'body', 'n'")]
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-9])
    ((_, name, text, reason),) = read(tmp_path / "b.parquet")
    assert (name, text) == ("b.parquet", None)
    assert reason.startswith("cannot be read after row 0: ")


def test_a_share_tells_how_much_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(50)))
    (tmp_path / "b.txt").write_text("x" * 700)
    shares = [one.share for one in Texts(tmp_path)]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1.0


def test_another_corpus_has_another_identity(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "texts").mkdir(parents=True)
        (tmp_path / name / "texts" / "a.txt").write_text("a text")
    one, two = (Texts(tmp_path / name / "texts") for name in ("one", "two"))
    assert one.identity() == two.identity()  # wherever it lies
    assert one.identity() != Texts(tmp_path / "two" / "texts", "body").identity()
    (tmp_path / "two" / "texts" / "a.txt").write_text("a longer text")
    assert one.identity() != two.identity()
