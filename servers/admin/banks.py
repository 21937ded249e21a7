"""What examiners do with banks of practice questions: part of ExamAdminService."""

from collections.abc import AsyncIterator

from finalbell.v1 import admin_pb2 as pb

from servers import errors
from servers.admin.bank_rules import bank_digest, read_bank
from servers.admin.rules import LARGEST_FILE, InvalidExamFile
from servers.messages import bank_message
from servers.serving.wrap import Call
from stores.banks import Banks, Unopened
from stores.exam_records import BankFile


class BankImports:
    """Imports banks, and removes them."""

    def __init__(self, banks: Banks) -> None:
        self._banks = banks

    async def import_bank(self, requests: AsyncIterator[pb.ImportBankRequest], call: Call) -> pb.ImportBankResponse:
        file = await _read_file(requests)
        kept = await self._banks.keep(file, bank_digest(file), call.caller.student)
        if kept.bank is None:
            raise errors.InvalidBank([_too_early(one) for one in kept.unopened])
        return pb.ImportBankResponse(bank=bank_message(kept.bank, opened=True), changed=kept.changed)

    async def delete_bank(self, request: pb.DeleteBankRequest, call: Call) -> pb.DeleteBankResponse:
        if not await self._banks.remove(request.bank_id, call.caller.student):
            raise errors.BankNotFound
        return pb.DeleteBankResponse()


def _too_early(found: Unopened) -> tuple[str, str]:
    opens_at = found.opens_at.isoformat(timespec="seconds")
    return (
        f"questions[{found.question}]",
        f"is asked by the exam {found.exam}, which opens at {opens_at}: nobody may read it before",
    )


async def _read_file(requests: AsyncIterator[pb.ImportBankRequest]) -> BankFile:
    """Gather the chunks and read the bank; refuse it with every error at once."""
    data, bank_id = bytearray(), ""
    async for request in requests:
        if data and request.bank_id:
            raise errors.InvalidField([("bankId", "belongs into the first message")])
        bank_id = bank_id or request.bank_id
        data += request.chunk
        if len(data) > LARGEST_FILE:
            raise errors.RequestTooLarge("A bank's file may have 32 MiB; this one is larger.")
    try:
        return read_bank(bytes(data), bank_id=bank_id or None)
    except InvalidExamFile as invalid:
        raise errors.InvalidBank(invalid.violations) from None
