"""The command: see the package's first lines."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.viewer
from benchmarks.viewer import ours, peers
from benchmarks.viewer.chromium import browser


def main() -> None:
    """Measure one of the three."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.viewer",
        description=benchmarks.viewer.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["open", "zoom", "peers"])
    parser.add_argument(
        "--records", type=Path, default=Path("records"), help="folder of the records (default: records)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="zooms of each kind (default: 20)")
    parser.add_argument(
        "--scripts", type=Path, help="folder with the peers' scripts: npm install d3@5 jquery@2 requirejs"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=peers.LENGTHS, help="of the peers' texts, in tokens")
    parser.add_argument("--patience", type=float, default=peers.PATIENCE, help="seconds that a page of theirs may take")
    parser.add_argument("--software-gl", action="store_true", help="WebGL computed by the processor, where no GPU is")
    options = parser.parse_args()
    options.records.mkdir(parents=True, exist_ok=True)
    with browser(options.software_gl) as opened:
        if options.what == "open":
            ours.opening(opened, options.records)
        elif options.what == "zoom":
            ours.zooming(opened, options.records, options.rounds)
        else:
            peers.compare(opened, options.scripts, options.lengths, options.patience)


if __name__ == "__main__":
    main()
