"""ScoringService: every call by its name, and which room answers it."""

from finalbell.v1 import scoring_pb2 as pb

from servers.receipts import Receipts
from servers.scoring.grading import Grading
from servers.scoring.item_statistics import ItemStatistics
from servers.scoring.reading import Reading
from servers.scoring.regrade import Regrading
from servers.serving.wrap import Call


class ScoringService:
    """Results, the grading queue, regrades, item statistics, and the keys of receipts."""

    def __init__(
        self, reading: Reading, receipts: Receipts, grading: Grading, regrading: Regrading, statistics: ItemStatistics
    ) -> None:
        self._receipts = receipts
        self.GetResult, self.WatchResult, self.StreamResult = reading.get, reading.watch, reading.stream
        self.ListResultHistory = reading.history
        self.ListGradingTasks, self.ClaimGradingTask = grading.list, grading.claim
        self.RenewGradingTask, self.ReleaseGradingTask = grading.renew, grading.release
        self.SubmitGrade = grading.grade
        self.RegradeExam, self.GetRegrade = regrading.request, regrading.read
        self.ComputeItemStatistics, self.GetItemStatistics = statistics.compute, statistics.get

    async def ListReceiptKeys(self, request: pb.ListReceiptKeysRequest, call: Call) -> pb.ListReceiptKeysResponse:
        keys = [
            pb.ReceiptKey(kty="OKP", crv="Ed25519", x=key.x, kid=key.kid, alg="EdDSA", use="sig") for key in self._receipts.keys
        ]
        return pb.ListReceiptKeysResponse(keys=keys)
