"""What PostgreSQL has committed is applied: nobody is told OVERLOADED, "certainly not applied", after it."""

from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

import pytest

from servers import errors
from servers.deadline import deadline
from servers.serving.wrap import refused
from servers.session.service import _committed
from stores.deadlines import Deadlines, Explained, settle
from stores.live import LiveSessions
from stores.pipeline import Overloaded
from stores.records import Deadline


class Changed(Deadlines):
    """Facts that were committed a moment ago."""

    async def explain_all(self, sessions: Sequence[UUID]) -> Mapping[UUID, Explained]:
        return {}


class Full(LiveSessions):
    """Redis's queue is full."""

    def __init__(self) -> None:
        pass

    async def move(self, ends: Mapping[UUID, Deadline]) -> Mapping[UUID, object]:  # type: ignore[override]
        raise Overloaded


async def test_time_that_was_given_and_that_redis_has_not_heard_of_is_perhaps_applied() -> None:
    with pytest.raises(ConnectionError) as unsettled:
        await settle(Changed(cast(object, None), deadline), Full(), [UUID(int=1)])

    assert isinstance(refused(unsettled.value), errors.StoreUnavailable)


def test_a_start_that_is_committed_is_perhaps_applied() -> None:
    with pytest.raises(errors.StoreUnavailable), _committed():
        raise Overloaded
