"""Strict reading of JSON that people wrote: every error is noted with its place, and nothing is silently ignored."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from stores.exam_records import Violation

E = TypeVar("E", bound=StrEnum)

MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,3})?([Zz]|[+-][0-9]{2}:[0-9]{2})")
FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
NOT_STORABLE = r"must not contain NUL (\u0000) or half of a surrogate pair (\ud800 to \udfff); remove them"
DEEPEST = 32
MANY = 20  # digits of a whole number; and how many unknown fields of one object are named


class JsonObject(dict[str, object]):
    """A JSON object that remembers which of its names stood twice."""

    twice: tuple[str, ...] = ()


def parse(text: str) -> object:
    """Parse JSON as RFC 8259 has it, so without NaN; raises ValueError, or RecursionError if it is too deep."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)


def _object(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    found = JsonObject(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        found.twice = tuple(name for name in found if times[name] > 1)
    return found


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _whole(digits: str) -> int:
    if len(digits) > MANY:
        raise ValueError("a number has too many digits")
    return int(digits)


def shown(name: object) -> str:
    """Return a name from the file as it may stand in a message: printable, short, quoted."""
    return ascii(str(name)[:40])


class Fields:
    """One JSON object at its path. What is read from it is checked; `done` complains about what was never asked for.

    A field with an error reads as its default or as something empty, so that the rest can be checked too.
    """

    def __init__(self, value: object, path: str, errors: list[Violation]) -> None:
        self.path = path
        self._errors = errors
        self._asked: set[str] = set()
        self._object = value if isinstance(value, JsonObject) else JsonObject()
        self._broken = False
        if not isinstance(value, JsonObject):
            self.wrong("", 'must be an object, "{…}"')
            self._broken = True  # which says it all
        for name in self._object.twice[:MANY]:
            self.wrong(plain(name), "stands twice; keep one of them")

    def at(self, name: str) -> str:
        """Return a field's path."""
        return f"{self.path}.{name}".strip(".") if name else self.path or "file"

    def wrong(self, name: str, message: str) -> None:
        """Note an error in a field."""
        if not self._broken:
            self._errors.append(Violation(self.at(name), message))

    def has(self, name: str) -> bool:
        """Whether the object has the field."""
        return name in self._object

    def value(self, name: str) -> object:
        """Return a field as it is, None where it is missing; the caller checks it."""
        self._asked.add(name)
        return self._object.get(name)

    def missing(self, name: str) -> bool:
        """Note the error and return True where a field is missing that has no default."""
        self._asked.add(name)
        if name not in self._object:
            self.wrong(name, "is missing")
        return name not in self._object

    def text(self, name: str, most: int, *, required: bool = False) -> str:
        """Return a text of at most `most` characters; "" where it may be missing."""
        if not self.has(name) and not required:
            self._asked.add(name)
            return ""
        return "" if self.missing(name) else self.checked(name, self.value(name), most, blank=not required)

    def checked(self, name: str, value: object, most: int, *, blank: bool) -> str:
        """Return a text, "" if it isn't one that can be kept; `blank` texts may be empty."""
        if not isinstance(value, str):
            self.wrong(name, "must be text in quotes")
        elif not blank and not value.strip():
            self.wrong(name, "must not be empty")
        elif len(value) > most:
            self.wrong(name, f"must have at most {most:,} characters; it has {len(value):,}")
        elif UNSTORABLE.search(value):
            self.wrong(name, NOT_STORABLE)
        else:
            return value
        return ""

    def token(self, name: str, pattern: re.Pattern[str], description: str) -> str:
        """Return a text that matches; "" where it doesn't."""
        if self.missing(name):
            return ""
        value = self.value(name)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.wrong(name, f"must be text in quotes: {description}")
        return ""

    def integer(self, name: str, default: int | None, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`; without a default the field must be there."""
        if default is None and self.missing(name):
            return least
        value = self.value(name) if self.has(name) else default
        self._asked.add(name)
        if type(value) is int and least <= value <= most:
            return value
        self.wrong(name, f"must be a whole number from {least} to {most}, without quotes")
        return least if default is None else default

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number from `least` to `most`; None where it is null or missing."""
        self._asked.add(name)
        return None if self.value(name) is None else self.integer(name, least, least, most)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.value(name) if self.has(name) else default
        self._asked.add(name)
        if not isinstance(value, bool):
            self.wrong(name, "must be true or false, without quotes")
            return default
        return value

    def one_of(self, name: str, kind: type[E]) -> E | None:
        """Return the enum's member that the field names; None where it names none."""
        if self.missing(name):
            return None
        value = self.value(name)
        found = next((member for member in kind if member.value == value), None)
        if found is None:
            self.wrong(name, f"must be one of {', '.join(kind)}")
        return found

    def word(self, name: str, default: E) -> E:
        """Return one of the words of the default's enum."""
        self._asked.add(name)
        return (self.one_of(name, type(default)) if self.has(name) else None) or default

    def moment(self, name: str) -> datetime | None:
        """Return a time in UTC; None where it is null or missing."""
        value = self.value(name)
        if value is None:
            return None
        try:
            if isinstance(value, str) and MOMENT.fullmatch(value):
                found = datetime.fromisoformat(value.upper()).astimezone(UTC)
                if FIRST <= found < LAST:
                    return found
        except (ValueError, OverflowError):
            pass  # a 30th of February
        self.wrong(name, 'must be null or a date and time with its offset, like "2026-05-16T09:00:00+05:00", in 2000 to 2199')
        return None

    def child(self, name: str) -> "Fields":
        """Return an object in this one; where it is missing, an empty one, so that its defaults hold."""
        found = self.value(name) if self.has(name) else JsonObject()
        self._asked.add(name)
        return Fields(found, self.at(name), self._errors)

    def entry(self, value: object, name: str) -> "Fields":
        """Return an object that is an entry of a list in this one."""
        return Fields(value, self.at(name), self._errors)

    def items(self, name: str, least: int, most: int) -> list[object]:
        """Return the entries of a list, at most `most` of them."""
        if self.missing(name):
            return []
        value = self.value(name)
        if not isinstance(value, list):
            self.wrong(name, 'must be a list, "[…]"')
            return []
        if not least <= len(value) <= most:
            self.wrong(name, f"must have {least} to {most} entries; it has {len(value)}")
        return value[:most]

    def done(self) -> None:
        """Note an error for every field that was not asked for."""
        known = ", ".join(sorted(self._asked))
        for name in [name for name in self._object if name not in self._asked][:MANY]:
            self.wrong(plain(name), f"is unknown here; the fields are {known}")


def problems_inside(value: object) -> Iterable[str]:
    """Yield what is wrong anywhere inside a value that is kept as it is: depth, characters, names that stand twice."""
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if depth > DEEPEST:
            yield f"must not be nested deeper than {DEEPEST} levels"
            return
        if isinstance(each, JsonObject):
            yield from (f"has {shown(name)} twice in one object; keep one of them" for name in each.twice)
            waiting += [(name, depth) for name in each]
            waiting += [(inner, depth + 1) for inner in each.values()]
        elif isinstance(each, list):
            waiting += [(inner, depth + 1) for inner in each]
        elif isinstance(each, str) and UNSTORABLE.search(each):
            yield NOT_STORABLE
            return


def plain(name: str) -> str:
    """Return a name from the file as it may stand in a path."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else shown(name)
