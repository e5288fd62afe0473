"""Serves a profile until it is interrupted, or saves its page."""

from __future__ import annotations

import os

from pellucid.profiles.profile import Profile
from pellucid.viewer.browser.profiled.answers import ProfileAnswers
from pellucid.viewer.browser.profiled.saved import save_profile
from pellucid.viewer.browser.serve import serve


def show_profile(
    profile: Profile,
    title: str,
    *,
    port: int = 0,
    open_browser: bool = True,
    save: str | os.PathLike[str] | None = None,
) -> int:
    """Serve until Ctrl-C, or save a page in place of it; the exit status. The address is printed on a line of its own.

    Args:
        profile: of a corpus.
        title: what the page calls it.
        port: of 127.0.0.1; 0 for a free one.
        open_browser: whether the address is opened, and not printed alone.
        save: the file of a page that opens from disk.

    Raises:
        ImportError: the packages that serve are not installed.
        OSError: the port cannot be had, or the page cannot be written.
        ValueError: the page cannot hold what it must.
        KeyboardInterrupt: at Ctrl-C.

    """
    answers = ProfileAnswers(profile, title)
    if save is None:
        serve(answers, port, open_browser)
    else:
        save_profile(answers, save)
    return 0
