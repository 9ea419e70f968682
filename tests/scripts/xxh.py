# SPDX-License-Identifier: BSD-3-Clause
"""XXH64 and XXH3 (64 bits, with seed) after xxHash's published specification, for tests: slow and plain."""
import struct

M = (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


def u32(b, at=0):
    return struct.unpack_from("<I", b, at)[0]


def u64(b, at=0):
    return struct.unpack_from("<Q", b, at)[0]


def rotl(x, n):
    return (x << n | x >> (64 - n)) & M


def swap64(x):
    return int.from_bytes(x.to_bytes(8, "little"), "big")


# ---- XXH64 ----
def round64(acc, x):
    return rotl((acc + x * P2) & M, 31) * P1 & M


def avalanche64(h):
    h = (h ^ h >> 33) * P2 & M
    h = (h ^ h >> 29) * P3 & M
    return h ^ h >> 32


def xxh64(data, seed=0):
    n, at = len(data), 0
    if n >= 32:
        v = [(seed + P1 + P2) & M, (seed + P2) & M, seed, (seed - P1) & M]
        while at + 32 <= n:
            v = [round64(v[i], u64(data, at + 8 * i)) for i in range(4)]
            at += 32
        h = (rotl(v[0], 1) + rotl(v[1], 7) + rotl(v[2], 12) + rotl(v[3], 18)) & M
        for x in v:
            h = ((h ^ round64(0, x)) * P1 + P4) & M
    else:
        h = (seed + P5) & M
    h = (h + n) & M
    while at + 8 <= n:
        h = (rotl(h ^ round64(0, u64(data, at)), 27) * P1 + P4) & M
        at += 8
    if at + 4 <= n:
        h = (rotl(h ^ u32(data, at) * P1 & M, 23) * P2 + P3) & M
        at += 4
    for x in data[at:]:
        h = rotl(h ^ x * P5 & M, 11) * P1 & M
    return avalanche64(h)


# ---- XXH3 ----
def fold(a, b):
    p = a * b
    return (p ^ p >> 64) & M


def avalanche3(h):
    h = (h ^ h >> 37) * 0x165667919E3779F9 & M
    return h ^ h >> 32


def mix16(data, at, secret, where, seed):
    return fold(u64(data, at) ^ (u64(secret, where) + seed) & M, u64(data, at + 8) ^ (u64(secret, where + 8) - seed) & M)


def up_to_16(d, seed):
    n, s = len(d), SECRET
    if n > 8:
        low = u64(d) ^ ((u64(s, 24) ^ u64(s, 32)) + seed) & M
        high = u64(d, n - 8) ^ ((u64(s, 40) ^ u64(s, 48)) - seed) & M
        return avalanche3((n + swap64(low) + high + fold(low, high)) & M)
    if n >= 4:
        seed ^= int.from_bytes((seed & 0xFFFFFFFF).to_bytes(4, "little"), "big") << 32
        h = (u32(d, n - 4) + (u32(d) << 32)) ^ ((u64(s, 8) ^ u64(s, 16)) - seed) & M
        h ^= rotl(h, 49) ^ rotl(h, 24)
        h = h * 0x9FB21C651E98DF25 & M
        h = (h ^ (h >> 35) + n) * 0x9FB21C651E98DF25 & M
        return h ^ h >> 28
    if n:
        key = d[0] << 16 | d[n >> 1] << 24 | d[n - 1] | n << 8
        return avalanche64(key ^ ((u32(s) ^ u32(s, 4)) + seed) & M)
    return avalanche64(seed ^ u64(s, 56) ^ u64(s, 64))


def up_to_240(d, seed):
    n, acc = len(d), len(d) * P1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += mix16(d, 16 * i, SECRET, 32 * i, seed) + mix16(d, n - 16 * (i + 1), SECRET, 32 * i + 16, seed)
        return avalanche3(acc & M)
    for i in range(8):
        acc += mix16(d, 16 * i, SECRET, 16 * i, seed)
    acc = avalanche3(acc & M)
    for i in range(8, n // 16):
        acc += mix16(d, 16 * i, SECRET, 16 * (i - 8) + 3, seed)
    return avalanche3((acc + mix16(d, n - 16, SECRET, 136 - 17, seed)) & M)


def accumulate(acc, data, at, secret, where):
    x = struct.unpack_from("<8Q", data, at)
    key = struct.unpack_from("<8Q", secret, where)
    for i in range(8):
        k = x[i] ^ key[i]
        acc[i ^ 1] = (acc[i ^ 1] + x[i]) & M
        acc[i] = (acc[i] + (k & 0xFFFFFFFF) * (k >> 32)) & M


def long(d, seed):
    secret = b"".join(struct.pack("<QQ", (u64(SECRET, i) + seed) & M, (u64(SECRET, i + 8) - seed) & M)
                      for i in range(0, 192, 16))
    acc, n, block = [P32_3, P1, P2, P3, P4, P32_2, P5, P32_1], len(d), 1024
    blocks = (n - 1) // block
    for b in range(blocks):
        for stripe in range(16):
            accumulate(acc, d, b * block + 64 * stripe, secret, 8 * stripe)
        for i in range(8):
            acc[i] = (acc[i] ^ acc[i] >> 47 ^ u64(secret, 128 + 8 * i)) * P32_1 & M
    for stripe in range((n - 1 - block * blocks) // 64):
        accumulate(acc, d, blocks * block + 64 * stripe, secret, 8 * stripe)
    accumulate(acc, d, n - 64, secret, 192 - 64 - 7)
    h = n * P1
    for i in range(4):
        h += fold(acc[2 * i] ^ u64(secret, 11 + 16 * i), acc[2 * i + 1] ^ u64(secret, 19 + 16 * i))
    return avalanche3(h & M)


def xxh3(data, seed=0):
    return up_to_16(data, seed) if len(data) <= 16 else up_to_240(data, seed) if len(data) <= 240 else long(data, seed)
