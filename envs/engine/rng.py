"""Counter-based random numbers: SplitMix64 streams keyed by (seed, env, episode).

A draw is a pure function of (seed, env, episode, draw number), so what an env does never depends on how many
envs run beside it, on the number of threads, or on the device; and the generator's whole state is two integers
inside the env's own state record (`key`, `draws`), so a snapshot of the state is a snapshot of the stream.

Inside a Sim, call `uniform`, `randint` or `normal` with the state record; never `np.random`.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (constants: Stafford's Mix13).
"""

import math

import numpy as np

from envs.engine.jit import njit

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
SHIFT_27, SHIFT_30, SHIFT_31 = np.uint64(27), np.uint64(30), np.uint64(31)
SHIFT_32, SHIFT_40 = np.uint64(32), np.uint64(40)
ONE_32 = np.uint32(1)
LEVEL_SALT = np.uint64(0x6C6576656C000001)
CONTENT_SALT = np.uint64(0x6C6576656C000002)
TWO_PI = 2.0 * math.pi


@njit
def mix64(z):
    """SplitMix64's output function: a bijection of uint64 in which every input bit flips half of the output bits."""
    z = (z ^ (z >> SHIFT_30)) * MIX_A
    z = (z ^ (z >> SHIFT_27)) * MIX_B
    return z ^ (z >> SHIFT_31)


@njit
def stream_key(seed, env, episode):
    """The uint64 key of one episode's stream. `seed`, `env`, `episode` are non-negative integers."""
    key = mix64(np.uint64(seed) + GAMMA)
    key = mix64(key ^ (np.uint64(env) + GAMMA))
    return mix64(key ^ (np.uint64(episode) + GAMMA))


@njit
def bounded(bits, n):
    """Map 64 random bits to an integer in [0, n), n <= 2^32, with a bias below n / 2^32 (Lemire's multiply-shift)."""
    return np.int64(((bits >> SHIFT_32) * np.uint64(n)) >> SHIFT_32)


@njit
def level_of(key, first, count):
    """The level id of the episode with stream `key`: one of [first, first + count)."""
    return first + bounded(mix64(key ^ LEVEL_SALT), count)


@njit
def seed_by_level(s):
    """Make the episode's further draws a function of `s.level` alone. For the `reset` of a sim with levels."""
    s.key = stream_key(CONTENT_SALT, s.level, 0)
    s.draws = np.uint32(0)


@njit
def bits64(s):
    """The stream's next 64 random bits (uint64). Advances `s.draws`."""
    s.draws = np.uint32(s.draws + ONE_32)
    return mix64(s.key + np.uint64(s.draws) * GAMMA)


@njit
def uniform(s, low, high):
    """A float in [low, high): 24 random bits, so float32 and float64 sims see the same draw."""
    return low + (high - low) * (np.float64(np.int64(bits64(s) >> SHIFT_40)) * 2.0**-24)


@njit
def randint(s, n):
    """An integer in [0, n), n <= 2^32."""
    return bounded(bits64(s), n)


@njit
def normal(s):
    """A standard normal float (Box-Muller; two draws)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(s, 0.0, 1.0)))
    return radius * math.cos(TWO_PI * uniform(s, 0.0, 1.0))
