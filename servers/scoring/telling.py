"""Telling: what follows a changed result once it is committed: the boards, and whoever watches it."""

from collections.abc import Sequence
from uuid import UUID

from finalbell.v1 import events_pb2 as events

from stores.places import Places
from stores.records import Standing
from stores.submit_log import ANNOUNCED, SubmitLog


class Telling:
    """Brings boards up to standings, and announces results. All of it may be repeated."""

    def __init__(self, places: Places, submits: SubmitLog) -> None:
        self._places = places
        self._submits = submits

    async def tell(self, sessions: Sequence[UUID], standings: Sequence[Standing]) -> None:
        """Tell of these sessions' results, and of where their students stand now."""
        await self.place(standings)
        if sessions:
            await self.announce(sessions)

    async def place(self, standings: Sequence[Standing]) -> None:
        """Put students where they stand; a board that turns out incomplete is built again."""
        if standings:
            await self._places.place(standings)

    async def announce(self, sessions: Sequence[UUID]) -> None:
        """Say which sessions have another result than before."""
        changed = events.ResultsChanged(session_ids=[session.bytes for session in sessions])
        await self._submits.reply(ANNOUNCED, changed.SerializeToString())
