"""How much is fuzzed: PELLUCID_FUZZ examples, of which each test makes its share; a few unless it is set."""

from __future__ import annotations

import os

from hypothesis import settings

EXAMPLES = int(os.environ.get("PELLUCID_FUZZ", "120"))


def fuzzed(share: float = 1.0) -> settings:
    """Hypothesis settings for a test's share of the budget."""
    return settings(max_examples=max(1, int(EXAMPLES * share)))
