"""BLAKE3 in hash mode, 256 bits, in nothing but Python.

All chunks of the input are compressed at once: word w of the state of chunk i is the lane i, 64 bits wide, of one
large integer. An addition then adds in all lanes; what overflows 32 bits is masked away.

`blake3.py` alone checks itself with vectors of the algorithm's authors and prints what is wrong.
"""

import sys
from array import array

BLOCK = 64
CHUNK = 1024
WORD = 0xFFFFFFFF
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
# Which state words the eight mixings of a round take: the columns, then the diagonals.
MIXINGS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)


class Lanes:
    """Arithmetic on `count` lanes at once."""

    def __init__(self, count):
        self.count = count
        self.ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
        self.mask = self.ones * WORD

    def pack(self, words):
        """One integer out of an array of 64-bit words, a word for each lane."""
        return int.from_bytes(words.tobytes(), "little")

    def unpack(self, lanes):
        """The words of all lanes."""
        return array("Q", lanes.to_bytes(8 * self.count, "little"))

    def compress(self, chaining, message, counter, length, flags):
        """The compression function; only the first half of its output, which is all that 256 bits need."""
        mask = self.mask
        v = list(chaining) + [self.ones * word for word in IV[:4]]
        v += [counter, 0, self.ones * length, self.ones * flags]
        m = list(message)
        for _ in range(7):
            for n, (ia, ib, ic, id_) in enumerate(MIXINGS):
                a, b, c, d = v[ia], v[ib], v[ic], v[id_]
                a = (a + b + m[2 * n]) & mask
                d ^= a
                d = ((d >> 16) | (d << 16)) & mask
                c = (c + d) & mask
                b ^= c
                b = ((b >> 12) | (b << 20)) & mask
                a = (a + b + m[2 * n + 1]) & mask
                d ^= a
                d = ((d >> 8) | (d << 24)) & mask
                c = (c + d) & mask
                b ^= c
                b = ((b >> 7) | (b << 25)) & mask
                v[ia], v[ib], v[ic], v[id_] = a, b, c, d
            m = [m[n] for n in PERMUTATION]
        return [v[n] ^ v[n + 8] for n in range(8)]


def _little(data, code):
    words = array(code, data)
    if sys.byteorder != "little":
        words.byteswap()
    return words


def _whole_chunks(data, is_root):
    """Chaining values of whole chunks: eight arrays, an entry for each chunk."""
    lanes = Lanes(len(data) // CHUNK)
    pairs = _little(data, "Q")
    counter = lanes.pack(array("Q", range(lanes.count)))
    value = [lanes.ones * word for word in IV]
    for block in range(CHUNK // BLOCK):
        message = []
        for pair in range(8):
            both = lanes.pack(pairs[block * 8 + pair :: CHUNK // 8])
            message += [both & lanes.mask, (both >> 32) & lanes.mask]
        flags = CHUNK_START if block == 0 else 0
        if block == CHUNK // BLOCK - 1:
            flags |= CHUNK_END | (ROOT if is_root else 0)
        value = lanes.compress(value, message, counter, BLOCK, flags)
    return [lanes.unpack(word) for word in value]


def _last_chunk(data, number, is_root):
    """Chaining value of a chunk that is not whole, as `_whole_chunks` gives it."""
    lanes = Lanes(1)
    value = list(IV)
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    for n, block in enumerate(blocks):
        flags = CHUNK_START if n == 0 else 0
        if n == len(blocks) - 1:
            flags |= CHUNK_END | (ROOT if is_root else 0)
        message = _little(block.ljust(BLOCK, b"\0"), "I")
        value = lanes.compress(value, message, number, len(block), flags)
    return [array("Q", [word]) for word in value]


def blake3(data):
    """The 32 bytes of the hash."""
    data = bytes(data)
    whole = len(data) // CHUNK * CHUNK
    is_root = len(data) <= CHUNK
    values = [array("Q") for _ in range(8)]
    if whole:
        values = _whole_chunks(data[:whole], is_root)
    if whole < len(data) or not data:
        rest = _last_chunk(data[whole:], whole // CHUNK, is_root)
        values = [some + more for some, more in zip(values, rest)]
    # Neighbours become parents, level by level; the odd one at the end goes up as it is.
    while len(values[0]) > 1:
        count = len(values[0]) // 2
        lanes = Lanes(count)
        odd = [word[2 * count :] for word in values]
        message = [lanes.pack(word[0 : 2 * count : 2]) for word in values]
        message += [lanes.pack(word[1 : 2 * count : 2]) for word in values]
        flags = PARENT | (ROOT if len(values[0]) == 2 else 0)
        value = lanes.compress([lanes.ones * word for word in IV], message, 0, BLOCK, flags)
        values = [lanes.unpack(word) + more for word, more in zip(value, odd)]
    return b"".join(word[0].to_bytes(4, "little") for word in values)


# Of test_vectors.json of the algorithm's authors: length of the input, whose bytes are 0 to 250 over and over, and hash.
VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    2048: "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
    2049: "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
    3072: "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2",
    3073: "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
    5121: "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff",
    7169: "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817",
    8193: "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b",
    31744: "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}


def check():
    """Lengths of the vectors whose hash comes out wrong."""
    pattern = bytes(range(251)) * 409
    return [size for size, right in VECTORS.items() if blake3(pattern[:size]).hex() != right]


if __name__ == "__main__":
    if wrong := check():
        sys.exit(f"wrong for inputs of these lengths: {wrong}")
    print(f"{len(VECTORS)} vectors: right")
