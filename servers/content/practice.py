"""Practice: banks, their questions by topic, what is right and why."""

import json
from collections.abc import Mapping, Sequence

from finalbell.v1 import content_pb2 as pb

from servers import errors
from servers.content.doors import Doors
from servers.content.replies import Reply, encoded
from servers.content.shelves import Shelves
from servers.marking import correct_text, is_right, misfit
from servers.messages import answer_of, bank_message, exam_position, placed_position, read_page_token, write_page_token
from servers.serving.wrap import Call
from stores.banks import Bank
from stores.banks import Practice as Practised
from stores.records import PaperQuestion

MOST_READS = 20
"""Of one page: where many banks have nothing to show of a topic, the next page goes on."""


class Practice:
    """Serves practice questions to those who may read their bank."""

    def __init__(self, shelves: Shelves, doors: Doors) -> None:
        self._shelves = shelves
        self._doors = doors

    async def list_banks(self, request: pb.ListBanksRequest, call: Call) -> bytes:
        reply, count = Reply(call), request.page_size or 50
        after = read_page_token(request.page_token, "banks", exam_position) or ""
        banks = reply.take(await self._shelves.banks())
        rest = [bank for bank in banks.values() if bank.id > after]
        owned = await self._owned(rest[:count], call, reply)
        page = pb.ListBanksResponse(
            banks=[bank_message(bank, opened=_opened(bank, owned)) for bank in rest[:count]],
            next_page_token=write_page_token(rest[count - 1].id, "banks") if len(rest) > count else "",
        )
        return reply.send(encoded(page))

    async def list_questions(self, request: pb.ListQuestionsRequest, call: Call) -> bytes:
        reply, count = Reply(call), request.page_size or 20
        scope = f"questions/{request.bank_id}/{request.topic}"
        first, place = read_page_token(request.page_token, scope, placed_position) or ("", 0)
        banks = reply.take(await self._shelves.banks())
        if request.bank_id:
            await self._doors.admit(call.caller.student, _bank(banks, request.bank_id).products, reply)
        wanted = [banks[request.bank_id]] if request.bank_id else list(banks.values())
        wanted = [bank for bank in wanted if bank.id >= first and (not request.topic or request.topic in bank.topics)]
        owned = frozenset(wanted[0].products) if request.bank_id and wanted else await self._owned(wanted, call, reply)
        found: list[bytes] = []
        ends = None
        for read, bank in enumerate(bank for bank in wanted if _opened(bank, owned)):
            if read == MOST_READS or len(found) == count:
                ends = f"{bank.id}/0"
                break
            after = place if bank.id == first else 0
            chunk = reply.take(await self._shelves.questions(bank, request.topic, after, count + 1))
            room = count - len(found)
            found += [piece for _, piece in chunk[:room]]
            if len(chunk) > room:
                ends = f"{bank.id}/{chunk[room - 1][0]}"
                break
        token = pb.ListQuestionsResponse(next_page_token=write_page_token(ends, scope) if ends else "")
        return reply.send(encoded(b"".join([*found, token.SerializeToString()])))

    async def get_solution(self, request: pb.GetSolutionRequest, call: Call) -> bytes:
        reply = Reply(call)
        practised, answer = await self._practised(request.bank_id, request.question_id, call, reply)
        return reply.send(encoded(pb.GetSolutionResponse(solution=_solution(request.bank_id, practised, answer))))

    async def check_answer(self, request: pb.CheckAnswerRequest, call: Call) -> pb.CheckAnswerResponse:
        reply, answer = Reply(call), answer_of(request)
        practised, key = await self._practised(request.bank_id, request.question_id, call, reply)
        text = practised.text
        question = PaperQuestion(text.id, text.type, tuple(option for option, _ in text.options))
        if (wrong := misfit(question, answer)) is not None:
            raise errors.InvalidField([wrong])
        if text.type == "essay":
            raise errors.InvalidField([("text", "answers an essay, which people judge; read its solution")])
        reply.mark("no-store")
        right = is_right(answer, text.type, json.loads(key))
        return pb.CheckAnswerResponse(right=right, solution=_solution(request.bank_id, practised, key))

    async def _practised(self, bank_id: str, question: str, call: Call, reply: Reply) -> tuple[Practised, str]:
        """Return a practice question that the caller may read, and its key."""
        bank = _bank(reply.take(await self._shelves.banks()), bank_id)
        await self._doors.admit(call.caller.student, bank.products, reply)
        practised = await self._shelves.practice(bank, question)
        if practised is None:
            raise errors.QuestionNotFound("The bank has no such question to read.")
        found = reply.take(practised)
        if found.answer is None:
            raise errors.ReviewWithheld("An exam asks this question too, and does not show yet what is right.")
        return found, found.answer

    async def _owned(self, banks: Sequence[Bank], call: Call, reply: Reply) -> frozenset[str]:
        """Return what the caller owns, as far as these banks ask."""
        return await self._doors.owned(call.caller.student, reply) if any(bank.products for bank in banks) else frozenset()


def _bank(banks: Mapping[str, Bank], bank: str) -> Bank:
    found = banks.get(bank)
    if found is None:
        raise errors.BankNotFound
    return found


def _opened(bank: Bank, owned: frozenset[str]) -> bool:
    return not bank.products or not owned.isdisjoint(bank.products)


def _solution(bank: str, practised: Practised, answer: str) -> pb.Solution:
    text = practised.text
    return pb.Solution(
        bank_id=bank,
        question_id=text.id,
        correct=correct_text(text.type, answer),
        explanation=practised.explanation,
    )
