# SPDX-License-Identifier: BSD-3-Clause
"""What each codec should lose, from its formula in docs/codecs.md and the values alone, in double precision: the laws that
bench/codec-laws holds measurements against. Nothing here calls the library. Arrays are whole groups."""

import math

import numpy as np


def groups(x, size):
    return np.asarray(x, np.float64).reshape(-1, size)


def part(lost, x):
    return float(np.sum(lost)) / float(np.sum(np.square(x, dtype=np.float64)))


# ---- casts: a twelfth of the squared distance of neighbours ----

def spacing(x, digits, least):
    """Distance of the neighbours of x in a format with so many digits behind the point, normal from 2^least."""
    return np.exp2(np.maximum(np.frexp(x)[1] - 1, least) - digits) * (x != 0)


def cast(x, digits, least):
    return part(spacing(x, digits, least) ** 2 / 12, x)


FP8 = {"fp8e4m3": (448.0, 3, -6), "fp8e5m2": (57344.0, 2, -14)}


def fp8(x, kind, group, power=False):
    """power: the scale is a power of two, and then nothing is exact. Else a group's largest value is."""
    most, digits, least = FP8[kind]
    x = groups(x, group)
    top = np.abs(x).max(axis=1, keepdims=True)
    scale = np.exp2(np.ceil(np.log2(top / most))) if power else top / most
    step = spacing(x / scale, digits, least) * scale
    error = np.rint(x / step) * step - x if power else step * (np.abs(x) < top) / math.sqrt(12)
    return part(error**2, x)


# ---- signs: exact for every group ----

def onebit(x, group, scale="mean"):
    x = groups(x, group)
    mean, square = np.abs(x).mean(axis=1), np.square(x).mean(axis=1)
    if scale == "mean":
        kept = mean**2
    elif scale == "rms":
        kept = 2 * mean * np.sqrt(square) - square
    else:
        up = ~np.signbit(x)
        kept = sum(np.square(np.where(side, x, 0).sum(axis=1)) / np.maximum(side.sum(axis=1), 1) for side in (up, ~up)) / group
    return 1 - float(kept.sum() / square.sum())


def ternary(x, group, part_of_mean=0.767):
    x = np.abs(groups(x, group))
    kept = x > part_of_mean * x.mean(axis=1, keepdims=True)
    share = np.square(np.where(kept, x, 0).sum(axis=1)) / np.maximum(kept.sum(axis=1), 1)
    return 1 - float(share.sum() / np.square(x).sum())


def ternary_kept(x, group):
    x = np.abs(groups(x, group))
    return float((x > 0.767 * x.mean(axis=1, keepdims=True)).mean())


def ternary_random(x, group):
    x = np.abs(groups(x, group))
    return float((x.max(axis=1) * x.sum(axis=1)).sum() / np.square(x).sum()) - 1


# ---- levels ----

LEVELS = {8: 127, 6: 31, 4: 7, 3: 3, 2: 1}


def steps(x, bits, scale):
    """The distance of levels in each group."""
    if scale == "minmax":
        return (x.max(axis=1, keepdims=True) - x.min(axis=1, keepdims=True)) / (2**bits - 1)
    return np.abs(x).max(axis=1, keepdims=True) / (2 if bits == 2 else LEVELS[bits])


def twelfth(x, bits, group, scale="absmax"):
    x = groups(x, group)
    return part(x.shape[1] * steps(x, bits, scale) ** 2 / 12, x)


def nearest(x, bits, group, scale="absmax", reach=1.0):
    """Every value to its nearest level. reach: the last level is at this part of where the scale has it."""
    x = groups(x, group)
    step = steps(x, bits, scale) * reach
    if scale == "minmax":
        low = x.min(axis=1, keepdims=True)
        return part((np.rint((x - low) / step) * step + low - x) ** 2, x)
    return part((np.clip(np.rint(x / step), -LEVELS[bits], LEVELS[bits]) * step - x) ** 2, x)


def better_steps(x, bits, group):
    """mse of 8 and 6 bits: max |x| / L for each group, or what cuts it a little, whichever loses less."""
    x, most = groups(x, group), LEVELS[bits]
    step = steps(x, bits, "absmax")
    lost = [np.square(np.clip(np.rint(x / s), -most, most) * s - x).sum(axis=1) for s in (step, step * most / (most + group / (32 * most)))]
    return part(np.minimum(*lost), x)


def at_random(x, bits, group, scale="absmax"):
    """Up or down, right on average: (x - lower)(upper - x)."""
    x = groups(x, group)
    step = steps(x, bits, scale)
    place = (x - x.min(axis=1, keepdims=True) if scale == "minmax" else x) / step
    inside = place - np.floor(place)
    return part(inside * (1 - inside) * step**2, x)


def best_steps(x, bits, group):
    """Of the step that is best for each group, as a part of what max |x| / L loses."""
    x = groups(x, group)
    step, most = steps(x, bits, "absmax"), LEVELS[bits]
    lost = np.stack([np.square(np.clip(np.rint(x / (step * r)), -most, most) * step * r - x).sum(axis=1) for r in np.linspace(0.4, 1.02, 63)])
    return float(lost.min(axis=0).sum()) / (nearest(x, bits, group) * float(np.square(x).sum()))


def of_normal(bits):
    """The least that levels for normal numbers lose: Lloyd and Max's."""
    x = np.linspace(0, 12, 480001)
    weight = np.exp(-x * x / 2)
    weight /= weight.sum()
    level = np.linspace(0.2, 2.5, 2 ** (bits - 1))
    for _ in range(2000):
        cell = np.searchsorted((level[1:] + level[:-1]) / 2, x)
        moved = np.bincount(cell, weight * x) / np.bincount(cell, weight)
        if np.abs(moved - level).max() < 1e-9:
            break
        level = moved
    return float(weight @ np.square(x - level[cell]))


def turned(x, group, rng):
    """Groups after random signs and a Walsh-Hadamard matrix: other signs than the library's, the same law."""
    x = groups(x, group) * rng.choice([-1.0, 1.0], group)
    half = 1
    while half < group:
        x = x.reshape(-1, group // (2 * half), 2, half)
        x = np.stack([x[:, :, 0] + x[:, :, 1], x[:, :, 0] - x[:, :, 1]], axis=2).reshape(-1, group)
        half *= 2
    return x / math.sqrt(group)


# ---- sparse ----

def left_out(x, keep):
    square = np.square(np.asarray(x, np.float64))
    return 1 - float(np.partition(square, square.size - keep)[square.size - keep:].sum() / square.sum())


def signs_of_largest(x, keep, group):
    """The k largest, each run of `group` of them by sign and mean."""
    a = np.abs(np.asarray(x, np.float64))
    kept = np.flatnonzero(a >= np.partition(a, a.size - keep)[a.size - keep])
    explained = sum(np.square(v.sum()) / v.size for v in np.split(a[kept], range(group, kept.size, group)))
    return 1 - float(explained / np.square(a).sum())


def positions(n, k):
    """log2 C(n, k), bits."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
