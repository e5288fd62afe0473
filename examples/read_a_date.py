"""Which characters of a date the model reads for each character of its answer: cross-attention as an alignment."""

import pellucid
from pellucid.demo import load_reader

reader = load_reader()
for text in ("3 mars 1997", "the third of March 1997", "1997年3月3日"):
    reading = reader.read(text, readouts=[pellucid.Entropy(), pellucid.TopK(1)])
    queries, keys = reading.axes("cross")
    weights = reading.attention["cross"][-1].weights()[0].mean(0)  # the last layer's heads, [queries, keys]
    print(f"{text} -> {reading.answer}")
    for token, row in zip(queries[: len(reading.answer)], weights, strict=False):
        places = sorted(row.topk(2).indices.tolist())
        print(f"  {token}  from", ", ".join(f"{keys[place]!r} ({row[place]:.0%})" for place in places))
