"""IntegrityAdminService: thresholds, a student's right to be forgotten, whose answers agree too well, and cases."""

from finalbell.v1 import integrity_pb2 as pb

from servers import errors
from servers.integrity import rules
from servers.integrity.analysing import Analysing
from servers.integrity.cases import CaseDesk
from servers.integrity.frames import Frames
from servers.integrity.messages import threshold_messages
from servers.messages import refuse_twice
from servers.serving.wrap import Call
from stores.signals import Signals


class IntegrityAdminService:
    """What staff may set, and delete."""

    def __init__(self, signals: Signals, frames: Frames | None, analysing: Analysing, desk: CaseDesk) -> None:
        self._signals = signals
        self._frames = frames
        self._analysing = analysing
        self._desk = desk

    async def GetThresholds(self, request: pb.GetThresholdsRequest, call: Call) -> pb.GetThresholdsResponse:
        if not await self._signals.is_exam(request.exam_id):
            raise errors.ExamNotFound("There is no such exam.")
        return pb.GetThresholdsResponse(thresholds=await self._now(request.exam_id))

    async def SetThresholds(self, request: pb.SetThresholdsRequest, call: Call) -> pb.SetThresholdsResponse:
        unknown = [n for n, change in enumerate(request.changes) if change.name not in rules.BY_NAME]
        if unknown:
            known = ", ".join(rules.BY_NAME)
            raise errors.InvalidField([(f"changes[{n}].name", f"is no indicator; there are: {known}") for n in unknown])
        refuse_twice([change.name for change in request.changes], "changes[{}].name")
        changes = {one.name: one.threshold if one.HasField("threshold") else None for one in request.changes}
        if not await self._signals.set_thresholds(request.exam_id, changes, call.caller.student):
            raise errors.ExamNotFound("There is no such exam.")
        return pb.SetThresholdsResponse(thresholds=await self._now(request.exam_id))

    async def EraseSignals(self, request: pb.EraseSignalsRequest, call: Call) -> pb.EraseSignalsResponse:
        sessions = [session for _, session in await self._signals.sessions_of(request.student_id)]
        frames = await self._frames.erase(sessions) if self._frames else 0
        erased = await self._signals.erase(request.student_id, call.caller.student, frames)
        return pb.EraseSignalsResponse(sessions=erased.sessions, signals=erased.signals, frames=frames)

    async def AnalyseExam(self, request: pb.AnalyseExamRequest, call: Call) -> pb.AnalyseExamResponse:
        return await self._analysing.analyse(request, call)

    async def GetAnalysis(self, request: pb.GetAnalysisRequest, call: Call) -> pb.GetAnalysisResponse:
        return await self._desk.run(request)

    async def ListPairs(self, request: pb.ListPairsRequest, call: Call) -> pb.ListPairsResponse:
        return await self._desk.pairs(request)

    async def OpenCase(self, request: pb.OpenCaseRequest, call: Call) -> pb.OpenCaseResponse:
        return await self._desk.open(request, call)

    async def GetCase(self, request: pb.GetCaseRequest, call: Call) -> pb.GetCaseResponse:
        return await self._desk.read(request)

    async def ListCases(self, request: pb.ListCasesRequest, call: Call) -> pb.ListCasesResponse:
        return await self._desk.page(request)

    async def MoveCase(self, request: pb.MoveCaseRequest, call: Call) -> pb.MoveCaseResponse:
        return await self._desk.move(request, call)

    async def ExportCase(self, request: pb.ExportCaseRequest, call: Call) -> pb.ExportCaseResponse:
        return await self._desk.export(request, call)

    async def _now(self, exam: str) -> list[pb.Threshold]:
        return threshold_messages(rules.thresholds(await self._signals.thresholds(exam)))
