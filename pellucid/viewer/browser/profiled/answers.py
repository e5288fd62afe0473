"""Answers what the page of a profile asks: a path and a query, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping

from pellucid import legible
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.profile import Profile
from pellucid.viewer.browser.answers import as_json, status_of, told
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.profiled.describe import Described, Json
from pellucid.viewer.browser.values import Answer


class ProfileAnswers:
    """What can be asked of a profile.

    Args:
        profile: of a corpus.
        title: what the page calls it.

    """

    index = "profile.html"  # the page's first file

    def __init__(self, profile: Profile, title: str) -> None:
        self.profile = profile
        self.described = Described(profile, title)

    def get(self, path: str, query: Mapping[str, str]) -> Answer:
        """The answer to a request; of one that cannot be answered, a status and a sentence."""
        try:
            return as_json(self._answer(Asked(query, path)))
        except Exception as error:  # whoever asked is told; a page in a browser can do nothing with a traceback
            return as_json({"error": told(error)}, status_of(error))

    def close(self) -> None:
        """Nothing is to be let go of."""

    def _answer(self, asked: Asked) -> Json:
        if asked.path == "api/profile":
            return self.described.whole()
        if asked.path not in ("api/head", "api/examples"):
            raise RefusedError(f"{legible.name(asked.path)}: there is no such address", 404)
        if not self.profile.heads:
            raise RefusedError("head: the profile has none, for no document was read", 404)
        place = asked.whole("head", 0, len(self.profile.heads) - 1)
        if asked.path == "api/head":
            return self.described.head(place)
        return self.described.examples(place, asked.one_of("number", NUMBERS))
