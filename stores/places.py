"""Places: brings boards up to standings, each exam's and those of the series it belongs to."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from time import monotonic

import structlog

from stores.boards import Boards, Frame, Source
from stores.catalog import Catalog
from stores.records import SERIES_BOARDS, Exam, Series, Standing
from stores.standings import Standings

log = structlog.get_logger()


LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Compared:
    """A board beside PostgreSQL: `students` is how many it has to have, `differences` what each of those should be that differ,
    and what they are (None: not there)."""

    board: str
    cohort: str | None
    complete: bool
    students: int
    differences: Mapping[str, tuple[int | None, int | None]]


Building = tuple[asyncio.Task[tuple[int, int] | None], float]
"""A build that is going on, and when it began by `time.monotonic()`."""


class Places:
    """Keeps boards and standings together. All of it may be repeated."""

    def __init__(self, boards: Boards, standings: Standings, catalog: Catalog) -> None:
        self._boards = boards
        self._standings = standings
        self._catalog = catalog
        self._building: dict[str, Building] = {}

    async def place(self, standings: Sequence[Standing], *, wait_seconds: float = 0.5) -> None:
        """Put students where they stand now, in series too; a board that turns out incomplete is built again, which is waited for
        so long and otherwise goes on by itself."""
        stale = await self._boards.place(standings)
        students: dict[str, set[str]] = {}
        for standing in standings:
            students.setdefault(standing.exam, set()).add(standing.student)
        series = {one.id: (one, set[str]()) for exam in students for one in await self._catalog.series_of(exam, fresh=True)}
        for one, moved in series.values():
            moved.update(*(students.get(exam, ()) for exam in one.exams))
            board, counted = await self._board_just_now(one)
            placed = await self._standings.in_series(one, counted, sorted(moved))
            stale |= await self._boards.place([replace(standing, exam=board) for standing in placed])
        for exam in students.keys() - stale:
            known = await self._catalog.exam(exam)
            if (
                known is not None
                and known.approximate_from is not None
                and await self._boards.outgrown(exam, known.approximate_from)
            ):
                stale.add(exam)
        if stale:
            await self.rebuild_soon(stale, wait_seconds)

    async def board_of(self, series: Series) -> tuple[str, Sequence[str]]:
        """Return the name of a series' board now, and which of its exams count: those whose scores may be seen. It has another
        name whenever other exams count, or in another way, so that no board mixes two ways of counting."""
        counted = []
        for exam in sorted(series.exams):
            known = await self._catalog.exam(exam)
            if known is not None and known.shows_scores(ended=known.asks_for_end() and await self._catalog.ended(exam)):
                counted.append(exam)
        return _name(series, counted), counted

    async def rebuild_soon(self, boards: set[str], wait_seconds: float, cohort: str | None = None) -> None:
        """Build boards again, each once at a time and beside the caller, who waits until they are built, or have been building for
        so long: a large one does not hold up each batch that is scored meanwhile."""
        building = [self._begun(board, cohort) for board in boards]
        seconds = max(began for _, began in building) + wait_seconds - monotonic()
        await asyncio.wait([task for task, _ in building], timeout=max(0.0, seconds))

    async def rebuild(self, board: str) -> tuple[int, int] | None:
        """Build a board again, by its name, to its end whatever becomes of the caller; returns students and boards. None: another
        process is building it, or nothing has this name now."""
        task, _ = self._begun(board, None)
        return await asyncio.shield(task)

    def _begun(self, board: str, cohort: str | None) -> Building:
        """Return the build of a board that is going on in this process, or begin one."""
        if board not in self._building:
            task = asyncio.create_task(self._build(board, [cohort] if cohort else []))
            self._building[board] = task, monotonic()
            task.add_done_callback(lambda done: self._built(board, done))
        return self._building[board]

    def _built(self, board: str, task: asyncio.Task[tuple[int, int] | None]) -> None:
        self._building.pop(board, None)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:  # whoever next reads or places tries again
            log.warning("board not rebuilt yet", board=board, error=f"{type(failure).__name__}: {failure}"[:200])

    async def _build(self, board: str, more_cohorts: Sequence[str]) -> tuple[int, int] | None:
        source = await self._source(board)
        if source is None:
            return None
        built = await self._boards.rebuild(source, more_cohorts)
        if built is not None:
            await self._forget_older(board)
            log.info("board rebuilt", board=board, students=built[0], boards=built[1])
        return built

    async def verify(self, exam: str) -> Sequence[Compared]:
        """Compare every board of an exam, its cohorts' and its series' with PostgreSQL, and change nothing. What differs because
        it is moving just now is left out: it would differ in another way at a second look."""
        first = [compared async for compared in self._compare_all(exam)]
        if not any(compared.differences for compared in first):
            return first
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        second = [compared async for compared in self._compare_all(exam)]
        before = {(one.board, one.cohort): one.differences for one in first}
        return [
            replace(
                one, differences={s: d for s, d in one.differences.items() if before.get((one.board, one.cohort), {}).get(s) == d}
            )
            for one in second
        ]

    async def _compare_all(self, exam: str) -> AsyncIterator[Compared]:
        for cohort in (None, *await self._standings.cohorts(exam)):
            yield await self._compare(exam, cohort, await self._standings.ranked(exam, cohort))
        for series in await self._catalog.series_of(exam):
            board, counted = await self.board_of(series)
            for cohort in (None, *await self._standings.cohorts(*series.exams)):
                yield await self._compare(board, cohort, await self._standings.ranked_in_series(series, counted, cohort))

    async def _compare(self, board: str, cohort: str | None, ranked: Mapping[str, int]) -> Compared:
        """Compare places, and how many are counted; of an approximate board only the best have places."""
        frame, entries = await self._boards.frame(board, cohort, "", 0), await self._boards.entries(board, cohort)
        best = ranked
        if isinstance(frame, Frame) and frame.approximate:
            best = dict(sorted(ranked.items(), key=lambda item: (item[1], item[0]), reverse=True)[: len(entries)])
        differences = {s: (best.get(s), entries.get(s)) for s in best.keys() | entries.keys() if best.get(s) != entries.get(s)}
        if isinstance(frame, Frame) and frame.histogram.total != len(ranked):
            differences["(students counted)"] = (len(ranked), frame.histogram.total)
        return Compared(board, cohort, frame is not False, len(ranked), differences)

    async def show(self, count: int) -> None:
        """Show what is held though its board is not frozen, or no longer. Who was not told of stays held, for the next time."""
        while shown := await self._standings.show(count):
            await self.place(shown)
            await self._standings.told(shown)

    async def reveal(self, standing: Standing) -> None:
        """Put a student who was revealed where they stand."""
        await self.place([standing])
        await self._standings.told([standing])

    async def reveal_again(self, exam: str, count: int) -> None:
        """Put those where they stand whom an earlier reveal did not get to the boards."""
        while untold := await self._standings.untold(exam, count):
            await self.place(untold)
            await self._standings.told(untold)

    async def forget_series(self, series: str) -> None:
        """Drop the board of a series that is no more."""
        board = await self._boards.supersede(SERIES_BOARDS + series, "")
        if board:
            await self._boards.drop(board)

    async def drain(self) -> None:
        """Give up the builds that were begun: whoever next reads or places begins anew."""
        tasks = [task for task, _ in self._building.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forget_older(self, board: str) -> None:
        """Drop the board of a series that another one has replaced."""
        series, at, _ = board.partition("@")
        if at and (older := await self._boards.supersede(series, board)) is not None:
            await self._boards.drop(older)

    async def _board_just_now(self, series: Series) -> tuple[str, Sequence[str]]:
        """Return what `board_of` does, as it is now: who places by what was true a moment ago would miss the board that another
        process has begun to build meanwhile, and that has read their students already."""
        counted = await self._catalog.showing(series.exams)
        return _name(series, counted), counted

    async def _source(self, board: str) -> Source | None:
        if not board.startswith(SERIES_BOARDS):
            exam = await self._catalog.exam(board)
            return None if exam is None else self._exam_source(exam)
        series = await self._catalog.series(board.removeprefix(SERIES_BOARDS).partition("@")[0])
        if series is None:
            return None
        now, counted = await self._board_just_now(series)
        return await self._series_source(series, board, counted) if now == board else None

    def _exam_source(self, exam: Exam) -> Source:
        standings = self._standings

        async def bounds(bands: int) -> Sequence[int] | None:
            if exam.approximate_from is None or await standings.size(exam.id) <= exam.approximate_from:
                return None
            return [] if exam.tie_break == "NONE" else await standings.bounds(exam.id, bands)

        return Source(
            exam.id, exam.tie_break, exam.max_score, lambda: standings.all(exam.id), lambda: standings.cohorts(exam.id), bounds
        )

    async def _series_source(self, series: Series, board: str, counted: Sequence[str]) -> Source:
        async def everybody() -> AsyncIterator[Sequence[Standing]]:
            async for page in self._standings.all_in_series(series, counted):
                yield [replace(standing, exam=board) for standing in page]

        async def exactly(_: int) -> None:
            return None

        exams = [await self._catalog.exam(exam) for exam in counted]
        highest = sum(exam.max_score for exam in exams if exam is not None)

        return Source(board, "NONE", highest, everybody, lambda: self._standings.cohorts(*series.exams), exactly)


def _name(series: Series, counted: Sequence[str]) -> str:
    counting = repr((list(counted), sorted(series.exams), series.best_of))
    return f"{series.board}@{blake2b(counting.encode(), digest_size=6).hexdigest()}"
