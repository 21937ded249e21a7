"""Which gateways an installation sells through: what its file says, and the providers made of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from servers.payments.click import Click
from servers.payments.click_api import MerchantApi
from servers.payments.payme import Payme
from servers.payments.provider import Provider
from servers.payments.sandbox import Sandbox
from stores.click_payments import ClickPayments
from stores.payme_transactions import PaymeTransactions


class Part(BaseModel):
    """A part of the file: names in camel case, none that nobody reads, and no value of it in an error."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, hide_input_in_errors=True)


class StripeAccount(Part):
    """`webhookSecrets`: any of them will do, so that they can be rotated."""

    api_key: str
    webhook_secrets: list[str]
    live: bool = False
    api_base: str = ""


class PaymeDesk(Part):
    """`merchant` is the cash desk's id, `key` its key; `checkoutUrl` Payme's page, or its test page."""

    merchant: str
    key: str
    checkout_url: str
    live: bool = False


class ClickService(Part):
    """`service`, `merchant` and `user` are Click's ids of us; `apiUrl` ends in `/merchant`."""

    service: str
    merchant: str
    user: str
    secret: str
    checkout_url: str
    api_url: str
    live: bool = False


class SandboxGateway(Part):
    """The local stack's own gateway (docs/sandbox.md)."""

    base_url: str
    api_key: str
    webhook_secrets: list[str]


class Selling(Part):
    """`returnUrl` is where a student comes back to from a gateway's page, with `{payment}` for the order's id; `default` is the
    gateway of a checkout that names none: the first that is there."""

    return_url: str = ""
    default: str = ""
    stripe: StripeAccount | None = None
    payme: PaymeDesk | None = None
    click: ClickService | None = None
    sandbox: SandboxGateway | None = None


def providers(file: str, pool: asyncpg.Pool) -> Mapping[str, Provider]:
    """Return the providers that a file names, by name, the default first; none without a file.

    Raises ValueError, without a value of the file, for one that is not right.
    """
    if not file:
        return {}
    selling = Selling.model_validate_json(Path(file).read_bytes())
    found = {provider.name: provider for provider in _made(selling, pool)}
    if len({provider.live for provider in found.values()}) > 1:  # a checkout may name any of them
        raise ValueError("Some payment providers are live and others are not: what is sold for money would be had for none.")
    if selling.default:
        if selling.default not in found:
            raise ValueError("The default of the payment providers is none of them.")
        found = {selling.default: found.pop(selling.default), **found}
    return found


def _made(selling: Selling, pool: asyncpg.Pool) -> Iterator[Provider]:
    back = selling.return_url
    if account := selling.stripe:
        from servers.payments.stripe_gateway import Stripe  # whose package takes a third of a second to import

        base = {"api_base": account.api_base} if account.api_base else {}
        yield Stripe(
            api_key=account.api_key,
            webhook_secrets=account.webhook_secrets,
            success_url=back,
            cancel_url=back,
            live=account.live,
            **base,
        )
    if desk := selling.payme:
        yield Payme(
            PaymeTransactions(pool),
            merchant=desk.merchant,
            key=desk.key,
            checkout_url=desk.checkout_url,
            return_url=back,
            live=desk.live,
        )
    if shop := selling.click:
        yield Click(
            ClickPayments(pool),
            MerchantApi(shop.api_url, service=shop.service, user=shop.user, secret=shop.secret),
            service=shop.service,
            merchant=shop.merchant,
            secret=shop.secret,
            checkout_url=shop.checkout_url,
            return_url=back,
            live=shop.live,
        )
    if gateway := selling.sandbox:
        yield Sandbox(base_url=gateway.base_url, api_key=gateway.api_key, webhook_secrets=gateway.webhook_secrets, return_url=back)
