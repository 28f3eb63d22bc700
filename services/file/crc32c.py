"""CRC-32C of two runs of bytes from the CRC-32C of each, so that no byte is looked at twice."""

from functools import lru_cache

_CASTAGNOLI = 0x82F63B78
_ONE = 1 << 31  # The polynomial 1: coefficients stand in falling order.
_BYTE = 1 << 23  # The polynomial x^8.


def combine(first: int, second: int, second_size: int) -> int:
    """The CRC-32C of two runs of bytes, one behind the other, of which the second has so many.

    A CRC is a remainder, so that bytes behind the first run multiply it by x^8 each (as zlib's `crc32_combine`).
    """
    return _product(_bytes_behind(second_size), first) ^ second


@lru_cache(1024)
def _bytes_behind(count: int) -> int:
    """x^(8 * count) modulo the polynomial."""
    result, power = _ONE, _BYTE
    while count:
        if count & 1:
            result = _product(result, power)
        power = _product(power, power)
        count >>= 1
    return result


def _product(a: int, b: int) -> int:
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ _CASTAGNOLI if b & 1 else b >> 1
    return product
