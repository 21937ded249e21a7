"""The two calls for item statistics: one computation of an exam at a time in a process, in a task that the server owns."""

import asyncio

import structlog
from finalbell.v1 import scoring_pb2 as pb
from google.protobuf.json_format import MessageToJson, Parse

from servers import errors
from servers.messages import timestamp
from servers.scoring import statistics as rules
from servers.serving.wrap import Call
from stores.answer_keys import AnswerKeys
from stores.catalog import Catalog
from stores.records import Exam
from stores.statistics import Statistics

WAIT_SECONDS = 8.0
"""How long a call waits for a computation: less than the 10 s that any call may take."""

RETRY_AFTER_SECONDS = "1"
DRAIN_SECONDS = 5.0
"""How long a process that stops goes on with computations. One that takes longer is given up: the next call computes it anew."""

log = structlog.get_logger()


class ItemStatistics:
    """Computes item statistics beside the calls, and reads those that were kept."""

    def __init__(self, statistics: Statistics, keys: AnswerKeys, catalog: Catalog, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._statistics = statistics
        self._keys = keys
        self._catalog = catalog
        self._wait_seconds = wait_seconds
        self._computing: dict[str, asyncio.Task[pb.ItemStatistics]] = {}

    async def compute(self, request: pb.ComputeItemStatisticsRequest, call: Call) -> pb.ComputeItemStatisticsResponse:
        exam = await self._exam(request.exam_id)
        task = self._computing.get(exam.id) or self._begin(exam)
        done, _ = await asyncio.wait([task], timeout=self._wait_seconds)
        if done:
            return pb.ComputeItemStatisticsResponse(statistics=task.result())
        call.answer_with(202)
        call.header("retry-after", RETRY_AFTER_SECONDS)
        return pb.ComputeItemStatisticsResponse(computing=True)

    async def get(self, request: pb.GetItemStatisticsRequest, call: Call) -> pb.GetItemStatisticsResponse:
        exam = await self._exam(request.exam_id)
        kept = await self._statistics.read(exam.id)
        if kept is None:
            raise errors.StatisticsNotFound
        found = Parse(kept.body, pb.ItemStatistics(), ignore_unknown_fields=True)  # a newer server may have written it
        found.computed_at.CopyFrom(timestamp(kept.computed_ms))
        return pb.GetItemStatisticsResponse(statistics=found)

    async def drain(self) -> None:
        """Finish the computations that were begun, as far as they come in time."""
        running = list(self._computing.values())
        if running:
            _, late = await asyncio.wait(running, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _exam(self, exam_id: str) -> Exam:
        exam = await self._catalog.exam(exam_id, fresh=True)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam.")
        return exam

    def _begin(self, exam: Exam) -> asyncio.Task[pb.ItemStatistics]:
        def finished(task: asyncio.Task[pb.ItemStatistics]) -> None:
            self._computing.pop(exam.id, None)
            if not task.cancelled() and (failure := task.exception()) is not None:  # its callers may be gone
                log.warning("no item statistics", exam=exam.id, error=f"{type(failure).__name__}: {failure}"[:200])

        task = self._computing[exam.id] = asyncio.create_task(self._compute(exam))
        task.add_done_callback(finished)
        return task

    async def _compute(self, exam: Exam) -> pb.ItemStatistics:
        """Read all results, page by page, and keep what they come to; each page is added up beside the loop."""
        counts = (await self._catalog.counts([exam.id]))[exam.id]
        final = counts.submitted == 0 and await self._catalog.ended(exam.id, fresh=True)
        key_version, items = await self._items(exam)
        tally = rules.Tally(items)
        async for page in self._statistics.sheets(exam.id, exam.version):
            await asyncio.to_thread(tally.feed, page)
        found = _message(tally.statistics())
        found.exam_id, found.exam_version, found.key_version, found.final = exam.id, exam.version, key_version, final
        computed_ms = await self._statistics.keep(exam.id, exam.version, found.results, MessageToJson(found, indent=None))
        found.computed_at.CopyFrom(timestamp(computed_ms))
        return found

    async def _items(self, exam: Exam) -> tuple[int, list[rules.Item]]:
        """Return the newest key version of the exam's newest paper, and its questions as a tally needs them."""
        paper = (exam.id, exam.version)
        key_version = (await self._keys.newest([paper]))[paper]
        keys = await self._keys.read(*paper, key_version)
        if keys is None:
            raise LookupError(f"{exam.id} version {exam.version} has a question without a key")
        options = {question.id: tuple(id_ for id_, _ in question.options) for question in await self._catalog.questions(*paper)}
        return key_version, [rules.item(key, options[key.question], keys.marking.correct) for key in keys.keys]


def _message(found: rules.ExamStatistics) -> pb.ItemStatistics:
    return pb.ItemStatistics(
        results=found.results,
        max_score=found.max_points,
        mean=found.mean,
        standard_deviation=found.deviation,
        alpha=found.alpha,
        standard_error=found.error,
        questions=[_question(one) for one in found.items],
    )


def _question(one: rules.ItemStatistics) -> pb.QuestionStatistics:
    return pb.QuestionStatistics(
        question_id=one.item.question,
        type=one.item.type,
        topic=one.item.topic,
        max_points=one.item.max_points,
        voided=one.item.voided,
        difficulty=one.difficulty,
        blank=one.blank,
        discrimination=one.discrimination,
        alpha_without=one.alpha_without,
        options=[_option(option) for option in one.options],
        flags=[pb.QuestionStatistics.Flag.Value(flag) for flag in one.flags],
    )


def _option(option: rules.OptionStatistics) -> pb.OptionStatistics:
    return pb.OptionStatistics(
        option_id=option.option,
        is_key=option.is_key,
        count=option.count,
        share=option.share,
        mean_rest=option.mean_rest,
        correlation=option.correlation,
        suspect=option.suspect,
    )
