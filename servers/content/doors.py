"""Who may read what has to be bought."""

from collections.abc import Sequence

from servers import errors
from servers.content.replies import Reply
from stores.entitlements import Entitlements
from stores.shelf import AWAY, Kept


class Doors:
    """Asks what students own (stores/entitlements.py says how old an answer may be)."""

    def __init__(self, entitlements: Entitlements) -> None:
        self._entitlements = entitlements

    async def admit(self, student: str, products: Sequence[str], reply: Reply) -> None:
        """Refuse who owns none of the products that open something; nothing opens what is open to everybody."""
        if products and not reply.take(await self._entitlements.owns(student, products)):
            raise errors.EntitlementRequired("This has to be bought first.", productId=products[0], productIds=",".join(products))

    async def owned(self, student: str, reply: Reply) -> frozenset[str]:
        """Return what a student owns; where nobody can say nothing, in a reply that is stale."""
        try:
            return reply.take(await self._entitlements.owned(student))
        except AWAY:
            return reply.take(Kept(frozenset[str](), 0.0))
