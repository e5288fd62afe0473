"""What is computed once and remembered: a property, and what bounds a dictionary.

Without a lock: torch.compile does not know that of functools' own property, in Python 3.11, and whoever interrupts a
call, such as a signal's handler, may compute and remember as well.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - used like functools.cached_property
    """The value of a method of no arguments, kept in the object's own dictionary."""

    def __init__(self, method: Callable[[Any], T]) -> None:
        self.method, self.__doc__ = method, method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> once[T] | T:
        """The value, computed unless it is there."""
        if instance is None:
            return self
        value = self.method(instance)
        instance.__dict__[self.name] = value
        return value


def forget_oldest(remembered: dict[Hashable, Any], most: int) -> None:
    """Delete what was put into a dictionary first, until it holds no more than `most`."""
    for key in list(remembered)[: max(0, len(remembered) - most)]:
        remembered.pop(key, None)  # others may be at it
