"""Kubernetes' quantities: `10Gi`, `500M`, `1.5e9`."""

import re
from decimal import Decimal, InvalidOperation

from pvback.errors import ClusterError

__all__ = ["as_quantity", "parse_millis", "parse_quantity"]

_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", 1)},
}


def parse_quantity(text: str) -> int:
    """Bytes, rounded up, as the API rounds. Raises ClusterError."""
    return _rounded_up(_parse(text))


def parse_millis(text: str) -> int:
    """Thousandths of a processor, likewise."""
    return _rounded_up(_parse(text) * 1000)


def _parse(text: str) -> Decimal:
    found = _QUANTITY.fullmatch(text.strip())
    try:
        if found is not None and found[2] in _SUFFIXES:
            return Decimal(found[1]) * _SUFFIXES[found[2]]
    except InvalidOperation:
        pass
    raise ClusterError(f"not a quantity: {text!r}")


def _rounded_up(value: Decimal) -> int:
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


def as_quantity(count: int) -> str:
    """The shortest exact text: `10Gi`, or the plain number."""
    for power, name in reversed(list(enumerate("KMGTPE", 1))):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{name}i"
    return str(count)
