"""The random streams: known answers, right distributions, no correlation between neighbours."""

import numpy as np
import pytest
from scipy import stats

from envs.engine import njit, normal, randint, uniform
from envs.engine.jit import pure
from envs.engine.rng import GAMMA, bits64, level_of, mix64, seed_by_level, stream_key

STREAM = np.dtype([("key", "u8"), ("level", "i8"), ("draws", "u4")], align=True)
N = 1_000_000


def stream(key):
    streams = np.zeros(1, STREAM).view(np.recarray)
    streams.key = key
    return streams[0]


@njit
def fill_bits(s, out):
    for i in range(len(out)):
        out[i] = bits64(s)


@njit
def fill_uniform(s, low, high, out):
    for i in range(len(out)):
        out[i] = uniform(s, low, high)


@njit
def fill_randint(s, n, out):
    for i in range(len(out)):
        out[i] = randint(s, n)


@njit
def fill_normal(s, out):
    for i in range(len(out)):
        out[i] = normal(s)


def keys(seeds, envs, episodes):
    """stream_key of arrays: plain Python arithmetic that wraps around works on whole arrays too."""
    return pure(stream_key)(np.asarray(seeds, np.uint64), np.asarray(envs, np.uint64), np.asarray(episodes, np.uint64))


@pytest.mark.parametrize("version", [fill_bits, pure(fill_bits)], ids=["compiled", "python"])
def test_bits_are_splitmix64s(version):
    # The published reference: seed 1234567, its first five outputs.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    out = np.zeros(5, np.uint64)
    with np.errstate(over="ignore"):
        version(stream(1234567), out)
    assert out.tolist() == expected


def test_a_stream_goes_on_where_its_record_says():
    whole, parts = np.zeros(6, np.uint64), np.zeros(6, np.uint64)
    fill_bits(stream(99), whole)
    s = stream(99)
    fill_bits(s, parts[:2])
    assert s.draws == 2
    fill_bits(s, parts[2:])
    assert whole.tolist() == parts.tolist()


def test_uniform_stays_in_its_range_and_is_uniform():
    out = np.zeros(N)
    fill_uniform(stream(1), -2.0, 3.0, out)
    assert out.min() >= -2.0
    assert out.max() < 3.0
    counts = np.histogram(out, bins=100, range=(-2.0, 3.0))[0]
    assert stats.chisquare(counts).pvalue > 0.01


def test_uniform_is_a_multiple_of_two_to_the_minus_24_so_float32_holds_it_exactly():
    out = np.zeros(1000)
    fill_uniform(stream(2), 0.0, 1.0, out)
    np.testing.assert_array_equal(out, out.astype(np.float32))


@pytest.mark.parametrize("n", [1, 2, 7, 100, 4096])
def test_randint_is_uniform_below_n(n):
    out = np.zeros(N, np.int64)
    fill_randint(stream(n), n, out)
    counts = np.bincount(out, minlength=n)
    assert len(counts) == n
    assert n == 1 or stats.chisquare(counts).pvalue > 0.01


def test_normal_is_standard_normal():
    out = np.zeros(N)
    fill_normal(stream(3), out)
    assert np.isfinite(out).all()
    edges = stats.norm.ppf(np.linspace(0, 1, 101))  # 100 bins of equal probability
    assert stats.chisquare(np.histogram(out, bins=edges)[0]).pvalue > 0.01
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 4 / np.sqrt(N)


@pytest.mark.parametrize("axis", ["seed", "env", "episode"])
def test_neighbouring_streams_are_uncorrelated(axis):
    n = np.arange(200_000, dtype=np.uint64)
    zero = np.zeros_like(n)
    place = {"seed": (n, zero, zero), "env": (zero, n, zero), "episode": (zero, zero, n)}[axis]
    key = keys(*place)
    assert len(np.unique(key)) == len(n)
    for _ in range(2):  # the first and the second draw of each stream
        key = key + GAMMA  # what bits64 does before it mixes
        u = (pure(mix64)(key) >> np.uint64(40)) * 2.0**-24
        assert stats.chisquare(np.histogram(u, bins=100, range=(0, 1))[0]).pvalue > 0.01
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(len(u))


def test_levels_are_drawn_uniformly_from_their_range():
    with np.errstate(over="ignore"):
        level = pure(level_of)(keys(0, np.arange(100_000), 0), np.int64(1000), 50)
    assert level.min() == 1000
    assert level.max() == 1049
    assert stats.chisquare(np.bincount(level - 1000)).pvalue > 0.01


@njit
def draws_of_level(s, out):
    seed_by_level(s)
    fill_bits(s, out)


def test_seed_by_level_makes_draws_a_function_of_the_level_alone():
    def draws(key, level):
        s, out = stream(key), np.zeros(4, np.uint64)
        s.level = level
        draws_of_level(s, out)
        return out.tolist()

    assert draws(1, 7) == draws(2, 7)
    assert draws(1, 7) != draws(1, 8)
