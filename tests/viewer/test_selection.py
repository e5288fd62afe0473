import pytest
import torch

from pellucid.viewer.selection import numbered, select


@pytest.mark.parametrize(("kind", "layers"), [("cross", 2), ("encoder", 3), ("decoder", 2)])
def test_the_last_layer_and_the_mean_are_the_default(read, kind, layers):
    reading = read("3 mars")
    selection = select(reading, kind)
    assert (selection.layer, selection.layers, selection.head) == (layers - 1, layers, None)
    expected = reading.attention[kind][-1].weights()[0].mean(0)
    torch.testing.assert_close(selection.weights(), expected, rtol=0, atol=0)


def test_one_head_of_one_layer(read):
    reading = read("3 mars")
    selection = select(reading, "encoder", layer=1, head=2)
    torch.testing.assert_close(selection.weights(), reading.attention["encoder"][1].weights(heads=2)[0, 0])
    assert selection.title == "self-attention of the encoder, its layer 1 of 0-2, head 2 of 0-2"


def test_rows_are_distributions(read):
    for kind in ("cross", "encoder", "decoder"):
        weights = select(read("3 mars"), kind).weights()
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))


def test_axes_are_those_of_the_reading(read):
    reading = read("3 mars")
    selection = select(reading, "decoder")
    assert selection.queries == tuple(reading.target)
    assert selection.keys == ("^", *reading.target[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "other"}, r"attention: must be one of encoder, decoder, cross, got 'other'"),
        ({"layer": 2}, r"layer: cross-attention has 0-1, got 2"),
        ({"layer": -1}, r"layer: cross-attention has 0-1, got -1"),
        ({"head": -1}, r"head: cross-attention, layer 1, has 0-2, got -1"),
        ({"head": 3}, r"head: cross-attention, layer 1, has 0-2, got 3"),
        ({"kind": "encoder", "layer": 0, "head": 9}, r"head: self-attention of the encoder, layer 0, has 0-2, got 9"),
    ],
)
def test_what_there_is_not(read, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        select(read("3 mars"), **arguments)


def test_numbered():
    assert [numbered(count) for count in (1, 2, 7)] == ["0", "0-1", "0-6"]
