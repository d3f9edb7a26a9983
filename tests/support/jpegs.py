"""A small JPEG encoder for what other encoders can't be asked for: any sampling factors, in any order of scans.

The Huffman table of the first values is that of the standard's annex K. Colours are averaged over their boxes.
"""

import struct

import numpy as np

ZIGZAG = sorted(range(64), key=lambda k: (k // 8 + k % 8, (k // 8 if (k // 8 + k % 8) % 2 else k % 8)))
DC_COUNTS, DC_VALUES = (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), range(12)


def table(counts, values):
    """Return the code of each value: its bits as text."""
    codes, code, values = {}, 0, iter(values)
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            codes[next(values)] = f"{code:0{length}b}"
            code += 1
        code <<= 1
    return codes


# Every run and size has a code of 8 bits: no short one, but one that is told in a line.
AC_VALUES = [0x00, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 11))]
AC_COUNTS = (*[0] * 7, len(AC_VALUES), *[0] * 8)
DC, AC = table(DC_COUNTS, DC_VALUES), table(AC_COUNTS, AC_VALUES)


def coded(value):
    """Return a number's size, and its bits."""
    size = int(abs(value)).bit_length()
    return size, f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def block_bits(block, before, first, last):
    """Return the bits of some of 64 quantised numbers in zigzag order; number 0 as difference from the block before."""
    out, run = [], 0
    if first == 0:
        size, bits = coded(int(block[0]) - before)
        out.append(DC[size] + bits)
    for value in block[max(first, 1) : last + 1].tolist():
        if not value:
            run += 1
            continue
        out += [AC[0xF0]] * (run // 16)
        size, bits = coded(value)
        out.append(AC[run % 16 << 4 | size] + bits)
        run = 0
    return "".join(out + [AC[0]] * (run > 0))


def blocks_of(plane, quantum):
    """Return the quantised blocks of a plane whose sides are multiples of 8, int (rows, columns, 64)."""
    k = np.arange(8)
    basis = np.sqrt(np.where(k == 0, 1, 2) / 8)[:, None] * np.cos((2 * k + 1) * k[:, None] * np.pi / 16)
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    parts = (plane.astype(float) - 128).reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    flat = np.rint(basis @ parts @ basis.T / quantum).astype(int).reshape(rows, columns, 64)
    return flat[:, :, ZIGZAG]


def entropy(units):
    """Return the bytes of a list of bits, filled with ones, zeros stuffed after 255."""
    bits = "".join(units)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")


def segment(kind, content):
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def jpeg(pixels, factors, quantum=2, way="one scan", restart=0, marks=()):
    """Encode an array.

    Args:
        pixels: uint8 (H, W, C): 3 for RGB, stored as YCbCr; other numbers are stored as they are.
        factors: Horizontal and vertical sampling of each component.
        quantum: Every step of quantisation.
        way: `one scan`; `apart`, one for each component; `progressive`, the first values, then each component's others.
        restart: Units between restart markers; 0 for none.
        marks: Segments behind the start.
    """
    height, width, count = pixels.shape
    across, down = (max(pair[axis] for pair in factors) for axis in (0, 1))
    wide, high = -(-width // (8 * across)), -(-height // (8 * down))
    whole = np.pad(pixels, ((0, high * 8 * down - height), (0, wide * 8 * across - width), (0, 0)), mode="edge")
    if count == 3:
        turn = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
        whole = whole @ turn.T + [0, 128, 128]
    planes = []
    for number, (h, v) in enumerate(factors):
        plane = np.repeat(np.repeat(whole[..., number].astype(float), v, 0), h, 1)
        boxes = plane.reshape(high * 8 * v, down, wide * 8 * h, across).mean((1, 3))
        planes.append(blocks_of(boxes, quantum))
    every = list(range(count))
    frame = struct.pack(">BHHB", 8, height, width, count)
    frame += b"".join(bytes([each + 1, h << 4 | v, 0]) for each, (h, v) in zip(every, factors, strict=True))
    out = b"\xff\xd8" + b"".join(marks) + segment(0xDB, bytes([0]) + bytes([quantum]) * 64)
    out += segment(0xC2 if way == "progressive" else 0xC0, frame)
    out += segment(0xC4, b"\0" + bytes(DC_COUNTS) + bytes(DC_VALUES))
    out += segment(0xC4, b"\x10" + bytes(AC_COUNTS) + bytes(AC_VALUES))
    out += segment(0xDD, struct.pack(">H", restart)) if restart else b""
    scans = {
        "one scan": [(every, 0, 63)],
        "apart": [([each], 0, 63) for each in every],
        "progressive": [(every, 0, 0), *(([each], 1, 63) for each in every)],
    }[way]
    for chosen, first, last in scans:
        head = bytes([len(chosen)]) + b"".join(bytes([each + 1, 0]) for each in chosen) + bytes([first, last, 0])
        units = units_of(factors, chosen, (width, height, across, down))
        out += segment(0xDA, head) + scan(planes, units, first, last, restart)
    return out + b"\xff\xd9"


def units_of(factors, chosen, size):
    """Return the (component, row, column) of a scan's blocks, unit by unit: a lone component's block is a unit."""
    width, height, across, down = size
    if len(chosen) == 1:
        (each,) = chosen
        h, v = factors[each]
        rows, columns = -(-height * v // (8 * down)), -(-width * h // (8 * across))
        return [[(each, row, column)] for row in range(rows) for column in range(columns)]
    return [
        [
            (each, row * factors[each][1] + y, column * factors[each][0] + x)
            for each in chosen
            for y in range(factors[each][1])
            for x in range(factors[each][0])
        ]
        for row in range(-(-height // (8 * down)))
        for column in range(-(-width // (8 * across)))
    ]


def scan(planes, units, first, last, restart):
    """Return the codes of a scan."""
    out, step = b"", restart or len(units)
    for start in range(0, len(units), step):
        before, bits = dict.fromkeys(range(len(planes)), 0), []
        for each, row, column in (block for unit in units[start : start + step] for block in unit):
            block = planes[each][row, column]
            bits.append(block_bits(block, before[each], first, last))
            before[each] = int(block[0])
        more = start + step < len(units)
        out += entropy(bits) + (bytes([0xFF, 0xD0 + start // step % 8]) if more else b"")
    return out
