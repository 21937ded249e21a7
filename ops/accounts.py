"""Who may do what in PostgreSQL, Redis and NATS: one user per service everywhere, made by the first `up`."""

from dataclasses import dataclass

OWNER = "finalbell"


@dataclass(frozen=True, slots=True)
class Account:
    """One service's rights. PostgreSQL's are granted in the migrations, beside each table."""

    name: str
    redis_keys: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


STREAM_API = ("$JS.API.INFO", *(f"$JS.API.STREAM.{act}.SUBMITS" for act in ("INFO", "CREATE", "UPDATE", "MSG.GET")))
CONSUMER_API = (
    "$JS.API.CONSUMER.CREATE.SUBMITS.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.SUBMITS.>",
    "$JS.API.CONSUMER.INFO.SUBMITS.>",
    "$JS.API.CONSUMER.MSG.NEXT.SUBMITS.>",
    "$JS.ACK.SUBMITS.>",
)
SIGNAL_API = (
    "$JS.API.INFO",
    *(f"$JS.API.STREAM.{act}.SIGNALS" for act in ("INFO", "CREATE", "UPDATE")),
    *(f"$JS.API.CONSUMER.{act}.SIGNALS.>" for act in ("CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT")),
    "$JS.ACK.SIGNALS.>",
)
SESSION_KEYS = tuple(
    f"{noun}:*" for noun in ("s", "log", "gen", "run", "due", "unscored", "parked", "dirty", "r", "hold", "beat", "lease", "paper")
)
BOARD_KEYS = ("lb:*", "lbof:*", "lbhist:*", "lbband:*")

ACCOUNTS = (
    Account("session", SESSION_KEYS, ("submits.>", *STREAM_API), ("scored.>",)),
    Account(
        "scoring",
        ("s:*", "gen:*", "unscored:*", "parked:*", "due:*", *BOARD_KEYS),
        ("scored.>", *STREAM_API, *CONSUMER_API),
        ("scored.all",),
    ),
    Account("leaderboard", BOARD_KEYS),
    Account("content"),
    Account("payments"),
    Account("integrity", (), ("signals.>", *SIGNAL_API)),
    Account("admin", ("s:*", "gen:*", "due:*", "r:*", "unscored:*", "parked:*", "paper:*", *BOARD_KEYS)),
)
NAMES = (OWNER, *(account.name for account in ACCOUNTS))

REDIS_RULES = (
    "resetchannels -@all +@read +@write +@connection +@transaction +@fast +fcall +fcall_ro "
    "-@dangerous -@admin -scan -randomkey -dbsize -function +info +function|load +function|list"
)
"""What every service may do with its own keys. Commands inside functions are checked against the caller's rights too.

Nothing that tells of keys without naming one: KEYS is dangerous anyway, SCAN and RANDOMKEY show the names of others' keys.
"""


def redis_acl(passwords: dict[str, str]) -> str:
    """Return Redis's ACL file. The default user is off: nobody comes in without a name."""
    lines = ["user default off", f"user {OWNER} on >{passwords[OWNER]} ~* &* +@all"]
    for account in ACCOUNTS:
        keys = " ".join(f"~{pattern}" for pattern in account.redis_keys)
        lines.append(f"user {account.name} on >{passwords[account.name]} {keys} {REDIS_RULES}")
    return "\n".join(lines) + "\n"


def nats_users(passwords: dict[str, str]) -> str:
    """Return the `authorization` block of NATS's configuration."""
    users = [f'{{ user: {OWNER}, password: "{passwords[OWNER]}" }}']
    for account in ACCOUNTS:
        publish = ", ".join(f'"{subject}"' for subject in account.publish)
        subscribe = ", ".join(f'"{subject}"' for subject in (f"_INBOX_{account.name}.>", *account.subscribe))
        allowed = f"publish: {{ allow: [{publish}] }}" if publish else 'publish: { deny: [">"] }'
        rights = f"permissions: {{ {allowed}, subscribe: {{ allow: [{subscribe}] }} }}"
        users.append(f'{{ user: {account.name}, password: "{passwords[account.name]}", {rights} }}')
    return "authorization { users: [\n  " + "\n  ".join(users) + "\n] }\n"


def postgres_role(account: str) -> str:
    """Return an account's name in PostgreSQL."""
    return OWNER if account == OWNER else f"finalbell_{account}"
