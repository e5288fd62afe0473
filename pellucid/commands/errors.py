"""Input that cannot be used: one message that names the argument, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Input that cannot be used. The message names the argument and is all that a user sees."""


@contextmanager
def about(argument: str) -> Iterator[None]:
    """Turn what is wrong with an argument's value into InputError that begins with `argument`.

    Raises:
        InputError: in the place of an OSError or a ValueError.

    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{argument}{error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{argument}{error}") from error
