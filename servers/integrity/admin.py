"""IntegrityAdminService: thresholds, and a student's right to be forgotten."""

from finalbell.v1 import integrity_pb2 as pb

from servers import errors
from servers.integrity import rules
from servers.integrity.frames import Frames
from servers.integrity.messages import threshold_messages
from servers.serving.wrap import Call
from stores.signals import Signals


class IntegrityAdminService:
    """What staff may set, and delete."""

    def __init__(self, signals: Signals, frames: Frames | None) -> None:
        self._signals = signals
        self._frames = frames

    async def GetThresholds(self, request: pb.GetThresholdsRequest, call: Call) -> pb.GetThresholdsResponse:
        if not await self._signals.is_exam(request.exam_id):
            raise errors.ExamNotFound("There is no such exam.")
        return pb.GetThresholdsResponse(thresholds=await self._now(request.exam_id))

    async def SetThresholds(self, request: pb.SetThresholdsRequest, call: Call) -> pb.SetThresholdsResponse:
        unknown = [n for n, change in enumerate(request.changes) if change.name not in rules.BY_NAME]
        if unknown:
            known = ", ".join(rules.BY_NAME)
            raise errors.InvalidField([(f"changes[{n}].name", f"is no indicator; there are: {known}") for n in unknown])
        changes = {one.name: one.threshold if one.HasField("threshold") else None for one in request.changes}
        if not await self._signals.set_thresholds(request.exam_id, changes, call.caller.student):
            raise errors.ExamNotFound("There is no such exam.")
        return pb.SetThresholdsResponse(thresholds=await self._now(request.exam_id))

    async def EraseSignals(self, request: pb.EraseSignalsRequest, call: Call) -> pb.EraseSignalsResponse:
        sessions = [session for _, session in await self._signals.sessions_of(request.student_id)]
        frames = await self._frames.erase(sessions) if self._frames else 0
        erased = await self._signals.erase(request.student_id, call.caller.student, frames)
        return pb.EraseSignalsResponse(sessions=erased.sessions, signals=erased.signals, frames=frames)

    async def _now(self, exam: str) -> list[pb.Threshold]:
        return threshold_messages(rules.thresholds(await self._signals.thresholds(exam)))
