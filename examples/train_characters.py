"""A language model of characters, trained from nothing on attention that is ours or torch's: a small Transformer.

python examples/train_characters.py                            # some minutes on 2 cores
python examples/train_characters.py --steps 100                # half a minute, to see it learn
python examples/train_characters.py --attention torch          # the same model on torch's SDPA, for comparison
python examples/train_characters.py --text book.txt --out book # on a text of your own

It reads stories that the project makes up (`pellucid.lessons.texts`), in which people's numbers are hidden and asked
for at the end. To answer, it must find the name in the story again, which is what attention is for. It writes
`model.pt` and `loss.png`, then some lines of its own; Ctrl-C ends it early and leaves both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import pellucid
from pellucid.lessons.texts import story
from pellucid.nn import Rotary
from pellucid.viewer.pictures.sheet import save_figure

ATTENTION = {"pellucid": pellucid.attention, "torch": scaled_dot_product_attention}  # one for the other, nothing else
CONTEXT, BATCH = 256, 16
WIDTH, HEADS, LAYERS = 128, 4, 4
STEPS, LEARNING_RATE, WARMUP = 600, 2e-3, 50
HELD_OUT = 0.1  # of the text, its end
LOOK_EVERY = 25  # steps, at the held-out text
STORIES = 4000


def stories(count: int = STORIES, seed: int = 0) -> str:
    """A text of so many stories, a line each, about 230 characters long."""
    rng = Random(seed)
    lines = (" ".join(story(rng, 40, people=3, questions=4).text[1:]) for _ in range(count))
    return "\n".join(line.replace(" .", ".") for line in lines)


class Layer(nn.Module):
    """Causal self-attention, then a map of each place, each added to its input (pre-norm)."""

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.rotary = rotary
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.into_heads, self.back = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.map = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        heads = self.into_heads(self.norms[0](x)).unflatten(-1, (3, HEADS, -1))  # [batch, length, 3, heads, head_dim]
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        gathered = attend(self.rotary(query), self.rotary(key), value, is_causal=True)
        x = x + self.back(gathered.transpose(1, 2).flatten(2))
        return x + self.map(self.norms[1](x))


class Characters(nn.Module):
    """Scores every character as the next one."""

    def __init__(self, alphabet: str, attention: str = "pellucid") -> None:
        super().__init__()
        self.alphabet, self.attention = alphabet, attention
        self.embedding = nn.Embedding(len(alphabet), WIDTH)
        rotary = Rotary(WIDTH // HEADS)
        self.layers = nn.ModuleList(Layer(rotary) for _ in range(LAYERS))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(alphabet))

    def forward(self, numbers: Tensor, attend: Callable[..., Tensor] | None = None) -> Tensor:
        """[batch, length] of characters' numbers as [batch, length, characters] of scores."""
        x = self.embedding(numbers)
        for layer in self.layers:
            x = layer(x, attend or ATTENTION[self.attention])
        return self.output(self.norm(x))

    def observe(self, numbers: Tensor, readouts: Sequence[Any]) -> tuple[Tensor, list[pellucid.Observation]]:
        """The same scores, and an observation a layer. What is read has gradients, as the output has."""
        seen: list[pellucid.Observation] = []

        def attend(*heads: Tensor, **options: Any) -> Tensor:
            output, observation = pellucid.observe(*heads, **options, readouts=readouts)
            seen.append(observation)
            return output

        return self(numbers, attend), seen

    def encode(self, text: str) -> Tensor:
        """The numbers of a text's characters, [length]."""
        number_of = {character: number for number, character in enumerate(self.alphabet)}
        return torch.tensor([number_of[character] for character in text])

    @torch.no_grad()
    def write(self, begin: str, length: int, seed: int = 0) -> str:
        """What comes after `begin`, character by character, each drawn as likely as the model takes it to be."""
        numbers, generator = self.encode(begin)[None], torch.Generator().manual_seed(seed)
        for _ in range(length):
            likely = self(numbers[:, -CONTEXT:])[:, -1].softmax(-1)
            numbers = torch.cat((numbers, torch.multinomial(likely, 1, generator=generator)), 1)
        return "".join(self.alphabet[number] for number in numbers[0, len(begin) :].tolist())


@dataclass
class Curve:
    """What a character cost, in nats: each step's, and now and then that of held-out text."""

    learned: list[float] = field(default_factory=list)
    held_out: dict[int, float] = field(default_factory=dict)  # by the steps done before


Loss = Callable[[Characters, Tensor, float], tuple[Tensor, Tensor]]


def plain_loss(model: Characters, windows: Tensor, done: float) -> tuple[Tensor, Tensor]:
    """What a character costs, and what is to be minimised: the same.

    Args:
        model: that is trained.
        windows: numbers of characters, [batch, length + 1].
        done: how much of the training is over, 0 to 1.
    """
    cost = cost_of(model(windows[:, :-1]), windows)
    return cost, cost


def cost_of(scores: Tensor, windows: Tensor) -> Tensor:
    """The mean cost of a character, in nats."""
    return cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())


def train(model: Characters, text: str, steps: int, seed: int, curve: Curve, loss: Loss = plain_loss) -> bool:
    """Train; whether it came to its end. `curve` is added to as it goes, so that Ctrl-C leaves what was learned."""
    learned, held_out = split(model.encode(text))
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    with progress() as bars:
        bar = bars.add_task("Training", total=steps, said="")
        try:
            for step in range(steps):
                if step % LOOK_EVERY == 0:
                    curve.held_out[step] = held_out_cost(model, held_out)
                cost, minimised = loss(model, drawn(learned, rng), step / steps)
                optimizer.zero_grad()
                minimised.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (1.0 - step / steps)
                optimizer.step()
                curve.learned.append(cost.item())
                bars.update(bar, completed=step + 1, said=f"{curve.learned[-1]:.3f} nats a character")
        except KeyboardInterrupt:
            return False
    curve.held_out[steps] = held_out_cost(model, held_out)
    return True


def split(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """What is learned from, and what is held out."""
    end = int(len(numbers) * (1 - HELD_OUT))
    return numbers[:end], numbers[end:]


def drawn(numbers: Tensor, rng: torch.Generator) -> Tensor:
    """A batch of windows from random places, [batch, context + 1]."""
    starts = torch.randint(len(numbers) - CONTEXT, (BATCH, 1), generator=rng)
    return numbers[starts + torch.arange(CONTEXT + 1)]


@torch.no_grad()
def held_out_cost(model: Characters, numbers: Tensor) -> float:
    """What a character of held-out text costs, always of the same windows."""
    windows = drawn(numbers, torch.Generator().manual_seed(0))
    return cost_of(model(windows[:, :-1]), windows).item()


def progress() -> Progress:
    """A bar with the cost, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


def draw_curves(curves: dict[str, Curve], path: Path) -> None:
    """A picture of what characters cost as training went on: held out with dots, learned from as a thin line."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(curve.learned, color=f"C{number}", alpha=0.35, linewidth=0.8)
        axes.plot(*zip(*curve.held_out.items(), strict=True), "o-", color=f"C{number}", markersize=3, label=name)
    axes.set(xlabel="steps", ylabel="nats a character", title="held-out text (dots), the step's own (thin)")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def save(model: Characters, path: Path) -> None:
    """Write the model: `load` opens it."""
    torch.save({"alphabet": model.alphabet, "weights": model.state_dict()}, path)


def load(path: Path) -> Characters:
    """A model from a file."""
    stored = torch.load(path, weights_only=True)
    model = Characters(stored["alphabet"])
    model.load_state_dict(stored["weights"])
    return model


def parser_of(description: str, steps: int) -> argparse.ArgumentParser:
    """The options that both examples of training have; the description's second paragraph is shown as it stands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=steps, help="batches to learn from (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="processor threads (default: %(default)s)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="to learn from, UTF-8 (default: made-up stories)")
    parser.add_argument(
        "--out", type=Path, default=Path("characters"), metavar="DIR", help="folder (default: %(default)s)"
    )
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on. Raises ValueError."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def read_text(path: Path | None) -> str:
    """The text of a file, or stories; ends the program where it cannot be read, or is too short."""
    try:
        text = stories() if path is None else path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no such file, no UTF-8
        sys.exit(f"--text: {path} cannot be read: {getattr(error, 'strerror', None) or error}")
    least = round((CONTEXT + 2) / HELD_OUT)
    if len(text) < least:
        sys.exit(f"--text: at least {least:,} characters are needed, {path} has {len(text):,}")
    return text


def main() -> None:
    parser = parser_of(__doc__, STEPS)
    parser.add_argument("--attention", choices=ATTENTION, default="pellucid", help="whose (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    console, text, curve = Console(highlight=False, markup=False), read_text(options.text), Curve()
    model = Characters("".join(sorted(set(text))), options.attention)
    options.out.mkdir(parents=True, exist_ok=True)
    if not train(model, text, options.steps, options.seed, curve):
        console.print(f"Stopped after step {len(curve.learned)}.")
    save(model, options.out / "model.pt")
    draw_curves({f"{options.attention}": curve}, options.out / "loss.png")
    console.print(f"Wrote {options.out / 'model.pt'} and {options.out / 'loss.png'}. The model goes on:\n")
    console.print(model.write("\n", 400, options.seed).strip())


if __name__ == "__main__":
    main()
