"""`pellucid show run.attn`: windows, maxima and pictures of a record."""

import re

import pytest
import torch

from pellucid import open_record, watch
from pellucid.commands import records
from pellucid.readouts import Pooled, PooledMax
from pellucid.record.pooling import pooled
from pellucid.viewer.pictures import head_picture, record_picture

WORDS = ["the", "cat", "sat", "on", "9", "11", "8", "10"]


@pytest.fixture
def run(tmp_path):
    """A record of 90 tokens."""
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, num_layers=2).eval()
    with torch.no_grad(), watch(model, keep=True, tokens=[[WORDS[n % 8] for n in range(90)]]) as record:
        model(torch.randn(1, 90, 16) * 3)
    return record.save(tmp_path / "run.attn")


def largest_shown(out):
    return float(re.findall(r"██ (\S+)", out)[-1])


def test_a_window_is_shown_token_by_token(pellucid, run):
    arguments = ("--layer", 0, "--head", 1, "--queries", "10:18", "--keys", "6:20")
    status, out, err = pellucid("show", run, *arguments)
    assert (status, err) == (0, "")
    assert "\nqueries 10:18, keys 6:20; a row a query, a column a key\n" in out
    weights = open_record(run)[0].weights(queries=slice(10, 18), keys=slice(6, 20), heads=1)
    assert largest_shown(out) == pytest.approx(float(weights.max()), abs=0.005)
    rows = [line.split()[0] for line in out[out.index("queries 10:18") :].splitlines() if "·" in line or "▒" in line]
    assert rows[:8] == [WORDS[n % 8] for n in range(10, 18)]


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_the_mean_or_the_largest_of_each_cell(pellucid, run, pool):
    _, out, _ = pellucid("show", run, "--layer", 1, "--head", 0, "--pool", pool)
    assert ("a cell is 3 of queries by 3 of keys: the largest weight" in " ".join(out.split())) == (pool == "max")
    found = pooled(open_record(run)[1], q_bin=3, k_bin=3, heads=[0])
    top = (found.mean if pool == "mean" else found.largest).max()
    assert largest_shown(out) == pytest.approx(float(top), abs=0.005)


def test_all_heads_as_one(pellucid, run):
    assert "layers.1.self_attn, largest of 2 heads" in pellucid("show", run, "--pool", "max")[1]
    assert "layers.1.self_attn, mean of 2 heads" in pellucid("show", run, "--head", "mean")[1]


def test_maxima_that_were_read_are_shown(pellucid, tmp_path):
    layer, x = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval(), torch.randn(1, 60, 16)
    with torch.no_grad(), watch(layer, more=[Pooled(6, 6)]) as record:
        layer(x)
    path = record.save(tmp_path / "run.attn")
    assert "a cell is 10 of queries by 10 of keys" in pellucid("show", path)[1]
    lacking = (
        "no map: neither query and key nor maxima were kept; watch with keep=True or more=[pellucid.PooledMax(64, 64)]"
    )
    assert lacking in " ".join(pellucid("show", path, "--pool", "max")[1].split())
    with torch.no_grad(), watch(layer, more=[PooledMax(6, 6)]) as record:
        layer(x)
    assert "the largest weight" in pellucid("show", record.save(tmp_path / "max.attn"), "--pool", "max")[1]


@pytest.mark.parametrize("extension", ["png", "svg", "pdf"])
def test_a_picture_of_one_head_is_of_that_head(pellucid, run, tmp_path, extension):
    wall, head = tmp_path / f"wall.{extension}", tmp_path / f"head.{extension}"
    assert pellucid("show", run, "--save", wall)[0] == 0
    status, _, err = pellucid("show", run, "--layer", 0, "--head", 1, "--save", head)
    assert (status, err.splitlines()[-1]) == (0, f"pellucid: saved {head}")
    assert wall.read_bytes() != head.read_bytes()


def test_what_is_looked_at_is_what_is_drawn(pellucid, run, tmp_path, monkeypatch):
    drawn, walls = [], []
    monkeypatch.setattr(head_picture.HeadPicture, "save", lambda picture, path: drawn.append(picture))
    monkeypatch.setattr(record_picture, "save", lambda *_, look, **__: walls.append(look))
    window = ("--queries", "5:25", "--keys", ":30", "--pool", "max")
    path = tmp_path / "x.png"
    assert pellucid("show", run, "--layer", 0, "--head", 1, *window, "--save", path)[0] == 0
    expected = open_record(run)[0].weights(queries=slice(5, 25), keys=slice(0, 30), heads=1)[0, 0]
    torch.testing.assert_close(drawn[0].weights, expected, rtol=0, atol=1e-6)
    assert drawn[0].title.startswith("run.attn, layer 0, head 1: ")
    pellucid("show", run, "--layer", 0, "--head", "mean", "--save", path)
    torch.testing.assert_close(drawn[1].weights, open_record(run)[0].weights()[0].mean(0), rtol=0, atol=1e-6)
    assert drawn[1].title == "run.attn, layer 0, mean of 2 heads"
    pellucid("show", run, *window, "--save", path)
    assert walls == [(None, "max", slice(5, 25), slice(None, 30), 0)]


def test_a_bar_is_for_terminals_alone(pellucid, run, monkeypatch):
    assert pellucid("show", run)[2] == ""
    seen = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(records, "record_page", lambda view: seen.append(view.progress(0.5)) or "")
    assert "the map" in pellucid("show", run)[2]
    assert seen == [None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries", "90:"], "--queries: layer 1 has 90 queries, got 90:"),
        (["--keys", "3:91"], "--keys: layer 1 has 90 keys, got 3:91"),
    ],
)
def test_a_window_beyond_the_text(pellucid, run, arguments, message):
    assert pellucid("show", run, *arguments) == (1, "", f"pellucid: {message}\n")


@pytest.mark.parametrize("text", ["5", "a:b", "-3:4", "9:9", "1.5:2"])
def test_ranges_that_are_none(pellucid, run, text):
    status, _, err = pellucid("show", run, f"--keys={text}")
    assert status == 2
    assert "argument --keys: must" in err


@pytest.mark.parametrize("option", ["--pool=max", "--queries=0:3", "--keys=0:3"])
def test_a_date_is_shown_whole(pellucid, reader, option):
    name = option.split("=")[0]
    assert pellucid("show", "3 mars", option) == (
        1,
        "",
        f"pellucid: {name}: is for a record; leave it out with a date\n",
    )


def test_a_picture_of_one_head_of_a_date(pellucid, reader, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(head_picture.HeadPicture, "save", lambda picture, path: drawn.append(picture))
    assert pellucid("show", "3 mars", "--head", 2, "--save", tmp_path / "x.png")[0] == 0
    assert drawn[0].about == "cross-attention, its layer 1, head 2"


def test_a_large_record_says_that_it_was_not_compared_with_its_checksums(pellucid, run, monkeypatch):
    assert "checksums" not in pellucid("show", run)[1]
    file = run / "layer-0000.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert pellucid("show", run)[0] == 1
    monkeypatch.setattr(records, "MOST_VERIFIED", 1000)
    status, out, _ = pellucid("show", run)
    assert status == 0
    assert "kB were not compared with their checksums" in " ".join(out.split())
