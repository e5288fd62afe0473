"""`pellucid view all.heads`: a profile on a page in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.commands.console import tell
from pellucid.commands.errors import InputError
from pellucid.commands.profiles.shown import opened
from pellucid.legible import one_line
from pellucid.viewer.browser.profiled.show import show_profile


def run(options: argparse.Namespace) -> int:
    """Show the profile until Ctrl-C, or save its page; the exit status.

    Raises:
        InputError: it cannot be read, the packages for it are missing, the port is in use, or it cannot be saved.

    """
    if len(options.text) > 1:
        raise InputError("RECORD: one profile is shown at a time, and no record beside it; give one alone")
    path = options.text[0]
    profile = opened(path)
    try:
        title = one_line(Path(path).name)
        status = show_profile(profile, title, port=options.port, open_browser=not options.no_browser, save=options.save)
    except ImportError as error:
        raise InputError(f"{error}") from error
    except (OSError, ValueError) as error:
        option = "--port" if options.save is None else "--save"
        raise InputError(f"{option}: {(isinstance(error, OSError) and error.strerror) or error}") from error
    if options.save is not None:
        tell(f"saved {options.save}")
    return status
