"""An exam day's levers on boards: rebuild and verify, freeze and reveal, export; and series of exams."""

import csv
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence

from finalbell.v1 import admin_pb2 as pb

from servers import errors
from servers.messages import timestamp
from servers.serving.wrap import Call
from stores.boards import Boards, points_of
from stores.catalog import Catalog
from stores.exports import Exports, Row
from stores.places import Compared, Places
from stores.records import Exam, Series, Standing
from stores.series import AllSeries
from stores.standings import Standings

EXAMPLES = 20
SHOWN_TOGETHER = 2_000
COLUMNS = ("rank", "score", "student_id", "alias", "cohorts", "session_id", "submitted_at", "tie_break_ms")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""


class ExamBoards:
    """What staff do with boards."""

    def __init__(
        self, catalog: Catalog, boards: Boards, places: Places, standings: Standings, series: AllSeries, exports: Exports
    ) -> None:
        self._catalog = catalog
        self._boards = boards
        self._places = places
        self._standings = standings
        self._series = series
        self._exports = exports

    async def rebuild(self, request: pb.RebuildLeaderboardRequest, call: Call) -> pb.RebuildLeaderboardResponse:
        await self._exam(request.exam_id)
        built = await self._places.rebuild(request.exam_id)
        if built is None:
            raise errors.Conflict("The boards are being rebuilt already; look again in a moment.")
        await self._catalog.note(call.caller.student, "leaderboard.rebuild", request.exam_id, {"students": built[0]})
        return pb.RebuildLeaderboardResponse(students=built[0], boards=built[1])

    async def verify(self, request: pb.VerifyLeaderboardRequest, call: Call) -> pb.VerifyLeaderboardResponse:
        await self._exam(request.exam_id)
        compared = await self._places.verify(request.exam_id)
        differences = [_difference(one, student) for one in compared for student in sorted(one.differences)]
        return pb.VerifyLeaderboardResponse(
            complete=all(one.complete or not one.students for one in compared),
            students=compared[0].students,
            differences=len(differences),
            examples=differences[:EXAMPLES],
        )

    async def freeze(self, request: pb.FreezeLeaderboardRequest, call: Call) -> pb.FreezeLeaderboardResponse:
        await self._exam(request.exam_id)
        await self._catalog.freeze(request.exam_id, call.caller.student)
        exam = await self._exam(request.exam_id)
        frozen_ms = exam.freezes_ms if exam.revealed_ms is None else None
        return pb.FreezeLeaderboardResponse(frozen_at=None if frozen_ms is None else timestamp(frozen_ms))

    async def reveal(self, request: pb.RevealLeaderboardRequest, call: Call) -> pb.RevealLeaderboardResponse:
        exam, steps = await self._exam(request.exam_id), list[pb.RevealedPlace]()
        await self._places.reveal_again(exam.id, SHOWN_TOGETHER)
        while len(steps) < (request.steps if request.HasField("steps") else 1):
            standing = await self._standings.reveal(exam.id, call.caller.student)
            if standing is None:
                break
            steps.append(await self._shown(exam, standing))
        return pb.RevealLeaderboardResponse(steps=steps, hidden=await self._standings.hidden(exam.id))

    async def release(self, request: pb.ReleaseLeaderboardRequest, call: Call) -> pb.ReleaseLeaderboardResponse:
        await self._exam(request.exam_id)
        hidden = await self._standings.hidden(request.exam_id)
        await self._catalog.unfreeze(request.exam_id, call.caller.student)
        await self._exam(request.exam_id)  # so that this process knows of it
        await self._places.show(SHOWN_TOGETHER)
        return pb.ReleaseLeaderboardResponse(shown=hidden)

    async def export(self, request: pb.ExportLeaderboardRequest, call: Call) -> AsyncIterator[pb.ExportLeaderboardResponse]:
        exam, digest, count = await self._exam(request.exam_id), hashlib.sha256(), 0
        as_json = request.format == pb.ExportLeaderboardRequest.JSON
        head, write, tail = _json_file(exam, request.cohort) if as_json else _csv_file()
        async with self._exports.open(exam.id, request.cohort or None) as board:
            yield _piece(head, digest)
            async for rows in board.rows:
                yield _piece(write(rows, count == 0), digest)
                count += len(rows)
            yield _piece(tail, digest)
        details = {"sha256": digest.hexdigest(), "rows": count, "final": board.final, "cohort": request.cohort}
        await self._catalog.note(call.caller.student, "leaderboard.export", exam.id, details)
        yield pb.ExportLeaderboardResponse(sha256=digest.hexdigest(), rows=count, final=board.final)

    async def set_series(self, request: pb.SetExamSeriesRequest, call: Call) -> pb.SetExamSeriesResponse:
        series = Series(
            request.series_id,
            request.title or request.series_id,
            tuple(sorted(request.exam_ids)),
            request.best_of if request.HasField("best_of") else None,
        )
        unknown = set(await self._series.set(series, call.caller.student))
        if unknown:
            asked = list(request.exam_ids)
            raise errors.InvalidField([(f"examIds[{asked.index(one)}]", f"there is no exam {one}") for one in sorted(unknown)])
        return pb.SetExamSeriesResponse(series=_series_message(series))

    async def list_series(self, request: pb.ListExamSeriesRequest, call: Call) -> pb.ListExamSeriesResponse:
        return pb.ListExamSeriesResponse(series=[_series_message(one) for one in await self._catalog.all_series()])

    async def delete_series(self, request: pb.DeleteExamSeriesRequest, call: Call) -> pb.DeleteExamSeriesResponse:
        if not await self._series.delete(request.series_id, call.caller.student):
            raise errors.SeriesNotFound("There is no such series.")
        await self._places.forget_series(request.series_id)
        return pb.DeleteExamSeriesResponse()

    async def _shown(self, exam: Exam, standing: Standing) -> pb.RevealedPlace:
        """Put a student where they belong, and say what that was."""
        before = await self._boards.rank(exam.id, standing.student)
        await self._places.reveal(standing)
        after = await self._boards.rank(exam.id, standing.student)
        return pb.RevealedPlace(
            student_id=standing.student,
            alias=standing.alias,
            rank_before=before.rank if before else None,
            rank_after=after.rank if after else None,
            score=None if standing.order_key is None else points_of(standing.order_key, exam.tie_break),
        )

    async def _exam(self, exam_id: str) -> Exam:
        exam = await self._catalog.exam(exam_id, fresh=True)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam.")
        return exam


Writing = tuple[bytes, Callable[[Sequence[Row], bool], bytes], bytes]
"""A file's head, what writes some rows of it (the first ones?), and its tail."""


def _csv_file() -> Writing:
    def lines(rows: Sequence[Sequence[object]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        return text.getvalue().encode()

    def write(rows: Sequence[Row], _: bool) -> bytes:
        return lines([[_cell(value) for value in _values(row)] for row in rows])

    return lines([COLUMNS]), write, b""


def _json_file(exam: Exam, cohort: str) -> Writing:
    def plain(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def write(rows: Sequence[Row], first: bool) -> bytes:
        lines = [plain(dict(zip(COLUMNS, _values(row), strict=True))) for row in rows]
        return (("" if first else ",\n") + ",\n".join(lines)).encode()

    head = f'{{"exam":{plain(exam.id)},"cohort":{plain(cohort or None)},"tie_break":{plain(exam.tie_break)},"entries":[\n'
    return head.encode(), write, b"\n]}\n"


def _values(row: Row) -> Sequence[object]:
    moment = timestamp(row.submitted_ms).ToJsonString()
    return (row.rank, row.score, row.student, row.alias, list(row.cohorts), str(row.session), moment, row.tiebreak)


def _cell(value: object) -> object:
    """Return a value as a spreadsheet may have it: lists as words, and no text of others that it would take for a formula."""
    text = " ".join(value) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text


def _piece(data: bytes, digest: "hashlib._Hash") -> pb.ExportLeaderboardResponse:
    digest.update(data)
    return pb.ExportLeaderboardResponse(chunk=data)


def _series_message(series: Series) -> pb.ExamSeries:
    return pb.ExamSeries(series_id=series.id, title=series.title, exam_ids=series.exams, best_of=series.best_of)


def _difference(compared: Compared, student: str) -> str:
    wanted, found = compared.differences[student]
    board = f"cohort {compared.cohort} of {compared.board}" if compared.cohort else compared.board
    is_now, has_to_be = "missing" if found is None else found, "absent" if wanted is None else wanted
    return f"{board}: {student} is {is_now}, and has to be {has_to_be}"
