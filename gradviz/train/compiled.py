"""The looks of `Eyes` at many float32 tensors on a processor, in one call and one pass over memory: compiled by numba.

Imported only where numba is installed and large weights are watched: it takes a second, and the first time on a machine three.

Tensors are given by the addresses of their first entries, uint64, and by how many they have, int64: to make an array of each
would take longer than to measure it. What is given has to be there and without gaps: nothing is checked here.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

_PIECE = 1 << 12  # squares that are added up in float32, and the sums in float64
_OPTIONS = {"nogil": True, "cache": True}
_FAST = {"reassoc", "contract", "nsz"}  # adds up in several places at once; nan and inf stay what they are
_ZERO, _ONE, _NONE = np.float32(0), np.int32(1), np.int32(0)
_PLACES, _SIZES, _LENGTHS, _COUNTS = "uint64[::1]", "int64[::1]", "float64[::1]", "int64[::1]"


@intrinsic
def _pointer(_context, address):
    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


# A loop over a piece is vectorised only if it stands in a function of its own and its index is unsigned.


@njit(fastmath=_FAST, **_OPTIONS)
def _squares(now):
    squares = _ZERO
    for i in range(np.uint64(now.size)):
        squares += now[i] * now[i]
    return squares


@njit(fastmath=_FAST, **_OPTIONS)
def _seen(now):
    squares, count = _ZERO, _NONE
    for i in range(np.uint64(now.size)):
        squares += now[i] * now[i]
        count += _ONE if now[i] != _ZERO else _NONE
    return squares, count


@njit(**_OPTIONS)
def _mark(now, mask):
    for i in range(np.uint64(now.size)):
        mask[i] = now[i] != _ZERO


@njit(fastmath=_FAST, **_OPTIONS)
def _kept(now, copy):
    squares = _ZERO
    for i in range(np.uint64(now.size)):
        copy[i] = now[i]
        squares += now[i] * now[i]
    return squares


@njit(fastmath=_FAST, **_OPTIONS)
def _moved(old, now):
    squares, count = _ZERO, _NONE
    for i in range(np.uint64(now.size)):
        change = old[i] - now[i]
        squares += change * change
        count += _ONE if change != _ZERO else _NONE
    return squares, count


@njit(fastmath=_FAST, **_OPTIONS)
def _moved_there(old, now, there):
    squares, count = _ZERO, _NONE
    for i in range(np.uint64(now.size)):
        change = old[i] - now[i]
        squares += change * change
        count += np.int32(there[i]) if change != _ZERO else _NONE
    return squares, count


@njit("float64(uint64, int64)", **_OPTIONS)
def length(place, size):
    """The 2-norm of one."""
    now = carray(_pointer(place), (size,), np.float32)
    squares = 0.0
    for begin in range(0, size, _PIECE):
        squares += _squares(now[begin : begin + _PIECE])
    return sqrt(squares)


@njit(f"void({_PLACES}, {_SIZES}, {_PLACES}, {_LENGTHS}, {_COUNTS})", **_OPTIONS)
def seen(places, sizes, masks, lengths, counts):
    """The 2-norm of each, and how many of its entries are not 0; which, where there is a place for it and some are: an address
    of 0 is none."""
    for k in range(places.size):
        now = carray(_pointer(places[k]), (sizes[k],), np.float32)
        mask = carray(_pointer(masks[k]), (sizes[k],), np.uint8)
        squares, count = 0.0, 0
        for begin in range(0, sizes[k], _PIECE):
            end = begin + _PIECE
            some, there = _seen(now[begin:end])
            if masks[k] and count + there < min(end, sizes[k]):
                if count == begin:  # the first that is 0 is in this piece
                    mask[:begin] = 1
                _mark(now[begin:end], mask[begin:end])  # while it is in the cache
            squares += some
            count += there
        lengths[k], counts[k] = sqrt(squares), count


@njit(f"void({_PLACES}, {_SIZES}, {_PLACES}, {_LENGTHS})", **_OPTIONS)
def kept(places, sizes, copies, lengths):
    """The 2-norm of each, and a copy where there is a place for it."""
    for k in range(places.size):
        now = carray(_pointer(places[k]), (sizes[k],), np.float32)
        copy = carray(_pointer(copies[k]), (sizes[k],), np.float32)
        squares = 0.0
        for begin in range(0, sizes[k], _PIECE):
            end = begin + _PIECE
            squares += _kept(now[begin:end], copy[begin:end]) if copies[k] else _squares(now[begin:end])
        lengths[k] = sqrt(squares)


@njit(f"void({_PLACES}, {_SIZES}, {_PLACES}, {_PLACES}, {_LENGTHS}, {_COUNTS})", **_OPTIONS)
def moved(places, sizes, others, masks, lengths, counts):
    """The 2-norm of each less the other, and how many entries differ; where there is a mask, of those where it is true."""
    for k in range(places.size):
        old = carray(_pointer(places[k]), (sizes[k],), np.float32)
        now = carray(_pointer(others[k]), (sizes[k],), np.float32)
        mask = carray(_pointer(masks[k]), (sizes[k],), np.uint8)
        squares, count = 0.0, 0
        for begin in range(0, sizes[k], _PIECE):
            end = begin + _PIECE
            if masks[k]:
                some, there = _moved_there(old[begin:end], now[begin:end], mask[begin:end])
            else:
                some, there = _moved(old[begin:end], now[begin:end])
            squares += some
            count += there
        lengths[k], counts[k] = sqrt(squares), count
