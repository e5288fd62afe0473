"""`pellucid`, and `python -m pellucid`."""

from pellucid.commands.loading import ending_quietly


def main() -> int:
    """Run `pellucid.cli.main` and return its exit status."""
    with ending_quietly():
        from pellucid.cli import main as run
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
