"""Results are read page by page for statistics: each once, of one version, and none that waits for a grader."""

from dataclasses import replace
from typing import Any

from servers.scoring.rules import decided
from stores.connect import Stores
from stores.results import Results
from stores.statistics import Statistics
from tests.stack import Stack
from tests.stores.test_results import sat


async def test_every_scored_result_of_a_version_comes_once_however_small_the_pages(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    made = [await sat(stores, exam_id, f"s{n % 4}", n // 4 + 1, 1000, n) for n in range(9)]
    waiting, older = replace(made[7], partial=True), replace(made[8], exam_version=2)
    await Results(stores.postgres, decided).keep([*made[:7], waiting, older])
    wanted = sorted((one.student, one.session) for one in made[:7])

    for count in (1, 2, 7, 100):
        pages = [page async for page in Statistics(stores.postgres).sheets(exam_id, 1, count)]

        assert [(sheet.student, sheet.session) for page in pages for sheet in page] == wanted
        assert all(0 < len(page) <= count for page in pages)
    assert {tuple(sheet.points) for page in pages for sheet in page} == {(n,) for n in range(7)}
