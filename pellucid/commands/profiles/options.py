"""The options of `pellucid profile` and `pellucid merge`, declared with the standard library alone."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

LARGEST_BATCH = 1 << 24  # tokens
MOST_EXAMPLES = 64
MOST_SHARDS = 1 << 20

PROFILE_EXAMPLES = """\
examples:
  pellucid profile --model ./my-model --texts articles/ --out run.heads
  pellucid profile --model ./my-model --texts corpus.jsonl --field body --out run.heads
  pellucid profile --model ./my-translator --texts pairs.jsonl --field de --target-field en --out run.heads
  pellucid profile --model ./my-model --texts corpus.parquet --max-tokens 512 --out run.heads
  pellucid profile --model ./my-model --texts articles/ --pattern year='\\b(19|20)..\\b' --out run.heads
  pellucid profile --model ./my-model --texts articles/ --out run.heads --resume
  pellucid profile --model ./my-model --texts articles/ --shard 0/4 --out part-0.heads
  torchrun --nproc-per-node 4 -m pellucid profile --model ./my-model --texts articles/ --out run.heads
"""
MERGE_EXAMPLES = """\
examples:
  pellucid merge part-0.heads part-1.heads --out all.heads
  pellucid merge part-*.heads --out all.heads --overwrite
"""

Add = Callable[..., argparse.ArgumentParser]  # of a name, a summary, a description and examples


def declare(add: Add) -> None:
    """Declare the commands.

    Args:
        add: makes a command's parser.

    """
    _profile(
        add(
            "profile",
            "run a model over a corpus and sum up what every head does",
            "Runs a model over many documents and writes one file of sums: of each head mean, spread, quantiles and "
            "histogram of every number over the documents, where its weight goes by distance, position and kind of "
            "token, and its strongest documents, queries and keys with their text. Profiles of parts merge to exactly "
            "that of the whole.",
            PROFILE_EXAMPLES,
        )
    )
    merge = add(
        "merge",
        "put profiles of parts of a corpus together",
        "Writes the profile of all documents of several profiles, the same whatever their order. They must be of one "
        "model and made with the same options, and no document may be in two of them.",
        MERGE_EXAMPLES,
    )
    merge.add_argument("profiles", nargs="+", metavar="PROFILE", type=Path, help="files that pellucid profile wrote")
    merge.add_argument("--out", metavar="FILE", type=Path, required=True, help="the profile of all, such as all.heads")
    merge.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def _profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH", required=True, help="a model's folder, or a name on the hub")
    parser.add_argument(
        "--texts",
        metavar="PATH",
        type=Path,
        required=True,
        help="a folder of texts, a .jsonl or .parquet with one a row, or a text file with one a line",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the profile, such as run.heads")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    again.add_argument("--resume", action="store_true", help="go on with a profile that is not complete")
    parser.add_argument("--field", metavar="NAME", default="text", help="of a .jsonl or .parquet (default: text)")
    parser.add_argument(
        "--target-field", metavar="NAME", help="of what an encoder-decoder writes from it, in the same row"
    )
    parser.add_argument(
        "--max-tokens",
        type=_whole(1, LARGEST_BATCH),
        metavar="N",
        help="of a document (default: as the model allows)",
    )
    parser.add_argument(
        "--long", choices=("cut", "skip"), default="cut", help="what becomes of longer documents (default: cut)"
    )
    parser.add_argument(
        "--pattern",
        type=_pattern,
        action="append",
        metavar="NAME=REGEX",
        help="name a class of tokens; may be repeated",
    )
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="read a part of N, counted from 0, as 0/4")
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="on a Ray cluster (default: one of this machine)"
    )
    parser.add_argument(
        "--batch-tokens", type=_whole(1, LARGEST_BATCH), default=4096, metavar="N", help="at once (default: 4096)"
    )
    parser.add_argument(
        "--examples", type=_whole(0, MOST_EXAMPLES), default=4, metavar="N", help="kept of the strongest (default: 4)"
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    """A converter to a whole number within limits."""

    def convert(text: str) -> int:
        number = int(text) if text.strip().isdecimal() and len(text) < 20 else least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return number

    return convert


def _shard(text: str) -> tuple[int, int]:
    """A part of several: `0/4`."""
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not index < count <= MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"must be a part of several, counted from 0, as 0/4 to 3/4, got {text!r}")
    return index, count


def _pattern(text: str) -> tuple[str, str]:
    """A named regular expression."""
    name, equals, pattern = text.partition("=")
    if not name or not equals or not pattern:
        raise argparse.ArgumentTypeError(f"must be a name and a regular expression, as year='[0-9]{{4}}', got {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{name}: is no regular expression ({error})") from None
    return name, pattern
