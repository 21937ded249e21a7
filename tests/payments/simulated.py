"""Every gateway that is simulated, by its provider's name; the sandbox is the real one, in a process of its own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import asyncpg

from tests.payments.click_simulator import simulated_click
from tests.payments.gateways import Gateway
from tests.payments.payme_simulator import simulated_payme
from tests.payments.sandbox_process import real_sandbox
from tests.payments.stripe_simulator import simulated_stripe

GATEWAYS: Mapping[str, Callable[[asyncpg.Pool], AbstractAsyncContextManager[Gateway]]] = {
    "stripe": lambda pool: simulated_stripe(),
    "payme": simulated_payme,
    "click": simulated_click,
    "sandbox": lambda pool: real_sandbox(),
}
