"""Who is near whom: which students an analysis compares."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from uuid import UUID

from stores.case_records import Grouping

ROOM = "room-"
"""How a cohort that is a room begins."""

BITS = {4: 24, 6: 48}
"""How many bits of an address two students share who sit in the same place."""

DEFAULT = (Grouping.COHORT, Grouping.ADDRESS_RANGE)


@dataclass(frozen=True, slots=True)
class Groups:
    """Who is near whom. `tags` are what each student is tagged with, in words; `numbers` are as many numbers for each student as
    are needed to say so, -1 for none: who shares one of the same kind shares a tag."""

    tags: Sequence[frozenset[str]]
    numbers: Sequence[array[int]]
    pairs: int
    """How many pairs share a tag, those that share several once for each."""
    alone: int
    """How many students share nothing with anybody."""


def network(address: str) -> str | None:
    """Return the network that an address is in, in words; None: it is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    found = getattr(found, "ipv4_mapped", None) or found
    return str(ip_network((found, BITS[found.version]), strict=False))


def tags(
    groupings: Sequence[Grouping],
    cohorts: Sequence[Sequence[str]],
    sessions: Sequence[UUID],
    addresses: Mapping[UUID, Sequence[str]],
) -> Sequence[frozenset[str]]:
    """Return what each student is tagged with."""
    return [
        frozenset(
            [
                *(f"cohort {one}" for one in own if Grouping.COHORT in groupings and not one.startswith(ROOM)),
                *(f"room {one.removeprefix(ROOM)}" for one in own if _rooms(groupings) and one.startswith(ROOM)),
                *(
                    f"addresses {found}"
                    for one in (addresses.get(session, ()) if Grouping.ADDRESS_RANGE in groupings else ())
                    if (found := network(one)) is not None
                ),
            ]
        )
        for own, session in zip(cohorts, sessions, strict=True)
    ]


def grouped(found: Sequence[frozenset[str]]) -> Groups:
    """Number the tags that two students share. Tags of the same student go to different numbers, the largest tags first."""
    counts = {tag: count for tag, count in _counts(found).items() if count > 1}
    members: dict[str, list[int]] = {tag: [] for tag in sorted(counts, key=lambda tag: (-counts[tag], tag))}
    for at, own in enumerate(found):
        for tag in own:
            if tag in members:
                members[tag].append(at)
    numbers: list[array[int]] = []
    for number, of in enumerate(members.values()):
        place = next((one for one in numbers if all(one[at] < 0 for at in of)), None)
        if place is None:
            place = array("i", [-1]) * len(found)
            numbers.append(place)
        for at in of:
            place[at] = number
    pairs = sum(count * (count - 1) // 2 for count in counts.values())
    return Groups(found, numbers, pairs, alone=sum(counts.keys().isdisjoint(own) for own in found))


def _rooms(groupings: Sequence[Grouping]) -> bool:
    return Grouping.COHORT in groupings or Grouping.ROOM in groupings


def _counts(found: Sequence[frozenset[str]]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for own in found:
        for tag in own:
            counts[tag] = counts.get(tag, 0) + 1
    return counts
