"""Which heads of two profiles are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pellucid.profiles.layout import HeadName

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile

Key = tuple[str | int, int, bool]


class Pairing(NamedTuple):
    """Places of the same heads."""

    a: list[int]
    b: list[int]
    by_place: bool  # and not by the names of their layers


def paired(a: Profile, b: Profile) -> Pairing:
    """The heads that both have.

    Raises:
        ValueError: there is none.

    """
    for by_place in (False, True):
        one, other = ({key: at for at, key in enumerate(_keys(each.heads, by_place))} for each in (a, b))
        common = [key for key in one if key in other]
        if by_place and one.keys() != other.keys():
            break
        if common:
            return Pairing([one[key] for key in common], [other[key] for key in common], by_place)
    raise ValueError(
        f"no head of one is a head of the other: {_told(a)} and {_told(b)}; layers of other names are compared where "
        "they are as many and have as many heads"
    )


def _keys(heads: list[HeadName], by_place: bool) -> list[Key]:
    layers = list(dict.fromkeys(head.layer for head in heads))
    return [(layers.index(head.layer) if by_place else head.layer, head.head, head.role == "cross") for head in heads]


def _told(profile: Profile) -> str:
    layers = list(dict.fromkeys(head.layer for head in profile.heads))
    first = f", from {layers[0]} on" if layers else ""
    return f"{len(layers)} layers with {len(profile.heads)} heads{first}"
