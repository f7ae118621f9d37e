"""Kafka's RecordBatch v2, uncompressed: what Penstock's `batches` fields carry."""

import struct

HEAD = struct.Struct(">qiibIhiqqqhii")  # base offset to record count


def _table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82F63B78 if n & 1 else n >> 1
        yield n


_CRC = list(_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for b in data:
        crc = crc >> 8 ^ _CRC[(crc ^ b) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _varint(n):
    n = n << 1 ^ n >> 63
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _bytes(b):
    return _varint(-1) if b is None else _varint(len(b)) + b


def encode(records, timestamp, producer=(-1, -1, -1)):
    """A batch of (key, value, headers) with one timestamp; producer: id, epoch, first sequence."""
    section = b""
    for i, (key, value, headers) in enumerate(records):
        body = b"\0" + _varint(0) + _varint(i) + _bytes(key) + _bytes(value) + _varint(len(headers))
        for name, content in headers:
            body += _bytes(name.encode()) + _bytes(content)
        section += _varint(len(body)) + body
    checked = struct.pack(">hiqqqhii", 0, len(records) - 1, timestamp, timestamp, *producer, len(records)) + section
    rest = struct.pack(">ibI", -1, 2, crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(rest)) + rest


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def varint(self):
        n = shift = 0
        while True:
            b = self.data[self.at]
            self.at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n >> 1 ^ -(n & 1)

    def bytes(self):
        n = self.varint()
        if n < 0:
            return None
        self.at += n
        return self.data[self.at - n : self.at]


def decode(data):
    """The (offset, timestamp, key, value, headers) of a batch, and the batch's leader epoch."""
    base, length, epoch, magic, crc, attributes, _, first, _, _, _, _, count = HEAD.unpack_from(data)
    if magic != 2 or length != len(data) - 12 or attributes & 7 or crc != crc32c(data[21:]):
        raise ValueError(f"magic {magic}, length {length} of {len(data)}, attributes {attributes}, or the CRC")
    r, out = _Reader(data[HEAD.size :]), []
    for _ in range(count):
        end = r.varint() + r.at
        r.at += 1
        timestamp, offset = first + r.varint(), base + r.varint()
        key, value = r.bytes(), r.bytes()
        headers = [(r.bytes().decode(), r.bytes()) for _ in range(r.varint())]
        if r.at != end:
            raise ValueError(f"the record at offset {offset} ends at {r.at} instead of {end}")
        out.append((offset, timestamp, key, value, headers))
    return out, epoch
