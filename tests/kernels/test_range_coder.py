"""The arithmetic coder gives back what it was given, in as many bits as the frequencies say."""

import numpy as np
import pytest

from latentia.kernels import range_coder as coder


def coded(symbols, frequency):
    state, bits = coder.begin(), np.zeros(8 * len(symbols) + 64, np.uint8)
    start, total = np.cumsum(frequency) - frequency, int(frequency.sum())
    for symbol in symbols:
        coder.encode(state, bits, start[symbol], frequency[symbol], total)
    return bits[: coder.finish(state, bits)]


def read(bits, count, frequency):
    state, found = coder.begin(), []
    start, total = np.cumsum(frequency) - frequency, int(frequency.sum())
    coder.begin_reading(state, bits)
    for _ in range(count):
        place = coder.target(state, total)
        symbol = int(np.searchsorted(start, place, side="right")) - 1
        coder.decode(state, bits, start[symbol], frequency[symbol], total)
        found.append(symbol)
    return found


@pytest.mark.parametrize("frequency", [(1, 1), (1, coder.MOST - 2), (5, 0, 3, 1000, 1), (2**20, 1, 2**20), (7,)])
def test_symbols_come_back_in_as_many_bits_as_they_say(frequency):
    frequency = np.array(frequency, np.int64)
    share = frequency / frequency.sum()
    # every symbol that there is, however rare
    possible = np.flatnonzero(frequency)
    symbols = np.concatenate([np.random.default_rng(0).choice(len(share), 2000, p=share), possible, possible])
    bits = coded(symbols, frequency)
    assert read(bits, len(symbols), frequency) == symbols.tolist()
    ideal = -np.log2(share[symbols]).sum()
    assert ideal - 1e-6 <= 8 * len(bits) <= ideal + 0.001 * len(symbols) + 16


def test_zeros_at_the_end_need_not_be_kept():
    frequency = np.array([1, 255], np.int64)
    for seed in range(20):
        symbols = np.random.default_rng(seed).choice(2, 50, p=frequency / 256)
        bits = np.frombuffer(coded(symbols, frequency).tobytes().rstrip(b"\0"), np.uint8)
        assert read(bits, len(symbols), frequency) == symbols.tolist()
