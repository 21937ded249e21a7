"""Single flight: of many who ask for one thing at the same time, one asks the store, and all get its answer."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Flights(Generic[Key, Found]):
    """Look-ups that are under way, by what they look for."""

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Task[Found]] = {}

    async def join(self, key: Key, look: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
        """Return what `look` finds, or what whoever is looking for `key` already finds; a failure is shared too.

        A caller who leaves takes nobody along: the look-up goes on for the others.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(look())
            running.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(running)

    def _landed(self, key: Key, done: asyncio.Task[Found]) -> None:
        self._running.pop(key, None)
        if not done.cancelled():
            done.exception()  # looked at, though everybody may have left
