import json

import pytest
import torch

from pellucid.viewer.document import document
from pellucid.viewer.selection import select


def test_every_layer_and_head_is_there_with_its_observations(read):
    reading = read("3 mars")
    content = json.loads(json.dumps(document(reading, select(reading, "encoder")), allow_nan=False))
    assert [(head["layer"], head["head"]) for head in content["heads"]] == [(a, b) for a in range(3) for b in range(3)]
    for head in content["heads"]:
        observation = reading.attention["encoder"][head["layer"]]
        for name in ("entropy", "mass_on_first", "mean_distance"):
            expected = observation[name][0, head["head"]]
            assert head["by_query"][name] == pytest.approx(expected.tolist())
            assert head[name] == pytest.approx(expected.mean().item())


def test_the_map_is_the_selection(read):
    reading = read("3 mars")
    content = document(reading, select(reading, "cross", layer=0, head=1))
    expected = reading.attention["cross"][0].weights(heads=1)[0, 0]
    assert (content["map"]["layer"], content["map"]["head"]) == (0, 1)
    torch.testing.assert_close(torch.tensor(content["map"]["weights"]), expected)
    assert content["queries"] == reading.target
    assert content["keys"] == list("3 mars")
    assert (content["text"], content["answer"], content["attention"]) == ("3 mars", reading.answer, "cross")


def test_the_mean_of_heads_is_null(read):
    reading = read("3 mars")
    assert document(reading, select(reading))["map"]["head"] is None
