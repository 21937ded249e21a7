"""Money as people write it."""

from decimal import Decimal, DecimalException

DECIMALS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV"), 0),
    **dict.fromkeys(("XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
"""How many decimals a currency has, where it is not two. Source: ISO 4217."""


def shown(amount: int, currency: str) -> str:
    """Write minor units as people do: `25.00 USD`."""
    decimals = DECIMALS.get(currency, 2)
    return f"{Decimal(amount).scaleb(-decimals):,.{decimals}f} {currency}"


def minor(text: str, currency: str) -> int | None:
    """Read what somebody typed as minor units; None for what is no amount of this currency, or less than one unit."""
    try:
        units = Decimal(text.strip()).scaleb(DECIMALS.get(currency, 2))
    except DecimalException:  # an overflow is one too
        return None
    return int(units) if units.is_finite() and 1 <= units < 2**31 and units == int(units) else None
