"""The model of train_characters.py with the entropy of its attention in the loss, and what that does to its heads.

python examples/train_sharp_heads.py                        # some minutes on 2 cores: it trains two models
python examples/train_sharp_heads.py --steps 60             # a minute, to see it run
python examples/train_sharp_heads.py --entropy-penalty 0.5  # heads that look at next to nothing but one character

Two models start from one seed and read the same text; the second one's loss is

    cost of a character + penalty * mean entropy of all rows of all heads

where the entropy comes out of the same pass as the output, has a gradient, and needs no matrix of weights. It writes
both models, `loss.png`, and `heads.png`: each head's entropy through training, and its map of a line of held-out text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from rich.console import Console
from torch import Tensor
from train_characters import HELD_OUT, Characters, Curve, cost_of, draw_curves, parser_of, read_text, save, train

import pellucid
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.pictures.sheet import Panel, Side, save_figure

STEPS, PENALTY = 300, 0.1
SHOWN = 64  # characters of the maps


@dataclass
class Sharpening:
    """The loss of a training: `penalty`, which grows from 0, times the entropy. Keeps each head's as it goes."""

    penalty: float
    entropies: list[Tensor] = field(default_factory=list)  # of each step, [layers, heads], in nats

    def __call__(self, model: Characters, windows: Tensor, done: float) -> tuple[Tensor, Tensor]:
        """What a character costs, and what is to be minimised."""
        scores, seen = model.observe(windows[:, :-1], [pellucid.Entropy()])
        entropy = torch.stack([layer.entropy.mean((0, 2)) for layer in seen])  # of [batch, heads, queries] each
        self.entropies.append(entropy.detach())
        cost = cost_of(scores, windows)
        return cost, cost + self.penalty * min(1.0, 2 * done) * entropy.mean()


@dataclass
class Trained:
    """A model, and what is known of its training."""

    model: Characters
    sharpening: Sharpening
    curve: Curve = field(default_factory=Curve)

    def __str__(self) -> str:
        cost, spread = list(self.curve.held_out.values())[-1], math.exp(self.sharpening.entropies[-1].mean())
        return f"a character costs {cost:.3f} nats, a row spreads over the like of {spread:.1f} characters"

    @torch.no_grad()
    def maps(self, text: str) -> Tensor:
        """The weights of every head on a text, [layers, heads, queries, keys]."""
        _, seen = self.model.observe(self.model.encode(text)[None], [])
        return torch.stack([layer.weights()[0] for layer in seen])


def draw_heads(trained: dict[str, Trained], text: str, path: Path) -> None:
    """A picture: above, each head's entropy through training; below, its map of `text`; a column for each model."""
    figure = Figure(figsize=(6.6 * len(trained) + 0.8, 10.4), layout="constrained")
    columns = figure.subfigures(1, len(trained), squeeze=False)[0]
    most = max(float(torch.stack(one.sharpening.entropies).max()) for one in trained.values())
    for column, (name, one) in zip(columns, trained.items(), strict=True):
        above, below = column.subfigures(2, height_ratios=(1, 2.2))
        draw_entropies(above.subplots(), one.sharpening, f"{name} the penalty: {one}", most)
        draw_maps(below, one.maps(text))
    letters = Lettering([text])
    about = f"weights, queries downwards and keys to the right: {letters.spell(text)!r}"
    figure.supxlabel(about, fontsize=8, fontfamily=letters.families)
    save_figure(figure, path)


def draw_entropies(axes: Axes, sharpening: Sharpening, title: str, most: float) -> None:
    """A line for each head, a colour for each layer, from 0 to `most`."""
    for layer, heads in enumerate(torch.stack(sharpening.entropies, -1)):
        for head, line in enumerate(heads):
            axes.plot(line, color=f"C{layer}", linewidth=0.9, label=f"layer {layer}" if head == 0 else None)
    axes.set_title(title, fontsize=9)
    axes.set(xlabel="steps", ylabel="a head's mean entropy, nats", ylim=(0, most * 1.05))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_maps(figure: SubFigure, maps: Tensor) -> None:
    """The maps of a model's heads, a line a layer."""
    side = Side(0, 1.0, maps.shape[-1], maps.shape[-1])
    for layer, line in enumerate(figure.subplots(*maps.shape[:2], squeeze=False)):
        for head, axes in enumerate(line):
            image = Panel(side, side, Lettering([])).draw(axes, maps[layer, head], PowerNorm(0.5, 0.0, 1.0))
            axes.set_title(f"layer {layer}, head {head}", fontsize=7, pad=2)
            axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(figure.axes), shrink=0.5, aspect=40).set_label("weight", fontsize=8)


def shown_of(text: str) -> str:
    """The end of a held-out line: in a story, where numbers are asked for."""
    held_out = text[int(len(text) * (1 - HELD_OUT)) :]
    line = held_out.split("\n")[1] if held_out.count("\n") > 1 else held_out
    return line[-SHOWN:]


def main() -> None:
    parser = parser_of(__doc__, STEPS)
    parser.add_argument("--entropy-penalty", type=float, default=PENALTY, metavar="X", help="(default: %(default)s)")
    parser.set_defaults(out=Path("sharp_heads"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, text = Console(highlight=False, markup=False), read_text(options.text)
    options.out.mkdir(parents=True, exist_ok=True)
    trained: dict[str, Trained] = {}
    for name, penalty in (("without", 0.0), ("with", options.entropy_penalty)):
        torch.manual_seed(options.seed)
        one = Trained(Characters("".join(sorted(set(text)))), Sharpening(penalty))
        finished = train(one.model, text, options.steps, options.seed, one.curve, one.sharpening)
        if one.curve.learned:
            trained[name] = one
            save(one.model, options.out / f"{name}.pt")
            console.print(f"{name} the penalty {one}")
        if not finished:
            console.print(f"Stopped after step {len(one.curve.learned)}.")
            break
    if trained:
        draw_curves({f"{name} the penalty": one.curve for name, one in trained.items()}, options.out / "loss.png")
        draw_heads(trained, shown_of(text), options.out / "heads.png")
        console.print(f"Wrote {options.out / 'heads.png'}; loss.png and the models lie beside it.")


if __name__ == "__main__":
    main()
