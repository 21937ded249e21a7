"""What a local stack sells through: its sandbox, unless its `payments.json` says otherwise."""

import json
import secrets

from ops.home import Home, read_json, write_private


def sandboxed(home: Home, port: int) -> bool:
    """Return whether the stack needs its sandbox, which listens on `port`.

    `payments.json` is made where there is none, and is its owner's to change: only where the sandbox is gets written again. The
    sandbox reads its secrets from a file of its own. Raises ValueError for a file that is no JSON object.
    """
    selling = read_json(home.payments)
    if selling is None and home.payments.exists():
        raise ValueError(f"{home.payments} is not a JSON object: mend it, or remove it to sell through the sandbox.")
    if selling is None:
        shared = {"apiKey": secrets.token_urlsafe(24), "webhookSecrets": [secrets.token_urlsafe(24)]}
        selling = {"sandbox": shared}
    sandbox = selling.get("sandbox")
    if sandbox is None:
        return False
    sandbox["baseUrl"] = f"http://127.0.0.1:{port}"
    write_private(home.payments, json.dumps(selling, indent=1))
    kept = {"api_key": sandbox["apiKey"], "webhook_secrets": sandbox["webhookSecrets"]}
    write_private(home.config("sandbox.json"), json.dumps(kept))
    return True
