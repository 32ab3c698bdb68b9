# SPDX-License-Identifier: Apache-2.0
"""Packing of small unsigned codes into bytes: least significant bit first, little endian, without gaps.

Code ``i`` of ``bits`` bits occupies bits ``i * bits`` to ``i * bits + bits - 1`` of the section, where bit ``b`` of a
section is bit ``b % 8`` of its byte ``b // 8``. Unused bits of the last byte are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CODES = 8
"""Codes per word of the general case: eight codes always fill whole bytes, ``bits`` of them."""


def packed_length(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits occupy."""
    return -(-count * bits // 8)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack along the last axis.

    Args:
        codes: uint8 [..., count], each below ``2**bits``.
        bits: 1 to 8.

    Returns:
        uint8 [..., packed_length(count, bits)].
    """
    count = codes.shape[-1]
    if bits == 8:
        return codes
    if bits == 4:
        packed = codes[..., 0::2].copy()
        packed[..., : count // 2] |= codes[..., 1::2] << np.uint8(4)
        return packed
    words = -(-count // _CODES)
    padded = np.zeros((*codes.shape[:-1], words * _CODES), np.uint8)
    padded[..., :count] = codes
    lanes = padded.reshape(*codes.shape[:-1], words, _CODES)
    word = np.zeros((*codes.shape[:-1], words), np.uint64)
    for lane in range(_CODES):
        word |= lanes[..., lane].astype(np.uint64) << np.uint64(lane * bits)
    octets = word.astype("<u8")[..., None].view(np.uint8)[..., :bits]
    return octets.reshape(*codes.shape[:-1], words * bits)[..., : packed_length(count, bits)]


def unpack_codes(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Inverse of :func:`pack_codes`; bits past the last code are not looked at.

    Args:
        packed: uint8 [..., at least packed_length(count, bits)].
        bits: 1 to 8.
        count: codes to unpack.

    Returns:
        uint8 [..., count], contiguous.
    """
    packed = packed[..., : packed_length(count, bits)]
    if bits == 8:
        return np.ascontiguousarray(packed)
    if bits == 4:
        # Spread both nibbles of a byte over the two bytes of a word: whole-array operations that vectorise.
        pairs = packed.astype("<u2")
        pairs |= pairs << np.uint16(4)
        pairs &= np.uint16(0x0F0F)
        return np.ascontiguousarray(pairs.view(np.uint8)[..., :count])
    words = -(-count // _CODES)
    octets = np.zeros((*packed.shape[:-1], words * bits), np.uint8)
    octets[..., : packed.shape[-1]] = packed
    lanes = octets.reshape(*packed.shape[:-1], words, bits)
    word = np.zeros((*packed.shape[:-1], words), np.uint64)
    for lane in range(bits):
        word |= lanes[..., lane].astype(np.uint64) << np.uint64(8 * lane)
    codes = np.empty((*packed.shape[:-1], words, _CODES), np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for lane in range(_CODES):
        codes[..., lane] = (word >> np.uint64(lane * bits)) & mask
    return np.ascontiguousarray(codes.reshape(*packed.shape[:-1], words * _CODES)[..., :count])


def unused_bits(packed: NDArray[np.uint8], bits: int, count: int) -> bool:
    """Whether any bit of ``packed`` [..., length] after the last of ``count`` codes is set."""
    whole, rest = divmod(count * bits, 8)
    if rest and (packed[..., whole] >> np.uint8(rest)).any():
        return True
    return bool(packed[..., packed_length(count, bits) :].any())


def transposed(cells: NDArray[np.uint8], order: tuple[int, ...]) -> NDArray[np.uint8]:
    """Transpose all axes but the last, whose 1, 2, 4, 8 or 16 bytes move as one element (several times as fast)."""
    n = cells.shape[-1]
    whole = np.ascontiguousarray(cells).view("<c16" if n == 16 else f"<u{n}")[..., 0]
    return np.ascontiguousarray(whole.transpose(order))[..., None].view(np.uint8)


def count_bits(words: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Set bits of each element of ``words``."""
    counts: NDArray[np.uint8] = _POPCOUNT[words]
    return counts


_POPCOUNT = np.unpackbits(np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2), axis=1).sum(1, np.uint8)
