"""Whatever a producer wrote into a batch, each of its records is read, or something stands in its place."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from itertools import islice

import cramjam
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka import codecs, lenient
from streams.kafka.codecs import GZIP, LZ4, NONE, SNAPPY, ZSTD, CodecError, inflate
from streams.kafka.lenient import MAX_KEPT, Flaw, read_batch
from tests.unit.streams.raw_batches import ATTRIBUTES, COUNT, LAST_DELTA, Name, batch, changed, flat

ALL = (NONE, GZIP, SNAPPY, LZ4, ZSTD)
ORDINARY = [(b"k%d" % n, b"v" * n, [("h", b"x"), ("", None)] * (n % 3)) for n in range(300)]


def told(records):
    return [(each.key, each.value, list(each.headers)) for each in records]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("size", [3, 8_000])
def test_every_codec_is_read(codec, size):
    """Records come as they were, also where a batch is read in many pieces."""
    noise = random.Random(1)
    records = [(b"k%d" % n, noise.randbytes(100) * (size // 100 or 1), [("h", b"%d" % n)]) for n in range(300)]
    read = flat(read_batch(batch(*records, codec=codec, offset=70)))
    assert told(read) == records
    assert [each.offset for each in read] == list(range(70, 370))


def test_frames_of_other_writers_are_read():
    """Snappy without xerial's blocks, gzip and zstd in several members: as librdkafka and others write them."""
    plain = batch(*ORDINARY)[61:]
    half = len(plain) // 2
    for codec, payload in (
        (SNAPPY, bytes(cramjam.snappy.compress_raw(plain))),
        (GZIP, gzip.compress(plain[:half]) + gzip.compress(plain[half:]) + b"\0\0"),
        (ZSTD, zstandard.compress(plain[:half]) + zstandard.compress(plain[half:])),
        (LZ4, bytes(cramjam.lz4.compress(plain[:half])) + bytes(cramjam.lz4.compress(plain[half:]))),
    ):
        assert told(flat(read_batch(changed(batch(*ORDINARY), {ATTRIBUTES: codec}, payload)))) == ORDINARY, codec


@pytest.mark.parametrize("codec", ALL)
def test_a_bad_header_name_costs_nobody_anything(codec):
    """A name that is not UTF-8 is read with its bytes escaped, and the records around it as they are."""
    records = [*ORDINARY[:5], (b"k", b"v", [(Name(b"\xff\xfe"), b"1"), ("fine", b"2")]), *ORDINARY[5:9]]
    read = told(flat(read_batch(batch(*records, codec=codec))))
    assert read[5] == (b"k", b"v", [("\\xff\\xfe", b"1"), ("fine", b"2")])
    assert read[:5] + read[6:] == ORDINARY[:9]


@pytest.mark.parametrize("codec", ALL)
def test_a_record_of_broken_structure_is_told_apart(codec):
    """Its bytes and offset are known; the records around it are read."""
    plain = bytearray(batch(*ORDINARY[:3])[61:])
    second = plain[0] // 2 + 1
    plain[second + 4] = 0x7E  # its key claims 63 bytes
    payload = bytes(plain) if codec == NONE else _deflate(codec, bytes(plain))
    read = flat(read_batch(changed(batch(*ORDINARY[:3], offset=9), {ATTRIBUTES: codec}, payload)))
    assert [type(each) is Flaw for each in read] == [False, True, False]
    assert (read[1].offset, read[1].whole_batch) == (10, False)
    assert "its structure is broken" in read[1].reason
    assert read[1].raw in bytes(plain)


def _deflate(codec: int, plain: bytes) -> bytes:
    return {
        GZIP: gzip.compress,
        SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
        LZ4: lambda data: bytes(cramjam.lz4.compress(data)),
        ZSTD: zstandard.compress,
    }[codec](plain)


@pytest.mark.parametrize(
    ("codec", "payload", "reason"),
    [
        (GZIP, b"no gzip at all", "its gzip is damaged"),
        (SNAPPY, b"\x64no snappy", "its snappy is damaged"),
        (SNAPPY, b"\xff\xff\xff\xff\x0f", "a block of snappy inflates to 4294967295 bytes"),
        (SNAPPY, b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff", "its snappy is damaged"),
        (LZ4, b"no lz4 at all", "its lz4 is damaged"),
        (ZSTD, b"no zstd at all", "its zstd is damaged"),
        (ZSTD, b"", "it ends in the middle of a record"),
        (6, b"anything", "its codec number 6"),
        (NONE, b"\x01", "a record claims to have -1 bytes"),
        (NONE, b"\xff" * 12, "a number has too many bytes"),
    ],
)
def test_what_cannot_be_inflated_stands_for_each_record(codec, payload, reason):
    """One flaw each, the first with the whole batch, since that is all there is."""
    raw = changed(batch(*ORDINARY[:3], offset=5), {ATTRIBUTES: codec}, payload)
    read = flat(read_batch(raw))
    assert [(each.offset, each.raw, each.whole_batch) for each in read] == [
        (5, raw, True), (6, None, False), (7, None, False),
    ]  # fmt: skip
    assert all(each.reason.startswith(reason) for each in read)


@pytest.mark.parametrize("codec", ALL)
def test_a_payload_that_is_cut_gives_what_it_has(codec):
    """Records before the cut are read, those behind it are flaws."""
    plain = batch(*ORDINARY)[61:-200]
    payload = plain if codec == NONE else _deflate(codec, plain)
    read = flat(read_batch(changed(batch(*ORDINARY), {ATTRIBUTES: codec}, payload)))
    flaws = [each for each in read if type(each) is Flaw]
    assert len(read) == 300
    assert read[-len(flaws) :] == flaws
    assert 0 < len(flaws) < 5


@pytest.mark.parametrize("count", [0, 2, 4, -1])
def test_a_count_that_lies_is_no_end(count):
    """The batch has as many records as it says, at most those that there are; the others are flaws."""
    read = flat(read_batch(changed(batch(*ORDINARY[:3]), {COUNT: count})))
    assert [each.offset for each in read if type(each) is not Flaw] == list(range(min(3, max(0, count))))


@pytest.mark.parametrize("codec", [NONE, ZSTD])
def test_records_that_a_producer_numbered_wrongly_are_all_read(codec):
    """Kafka counts them by their order, whatever offsets they give themselves."""
    plain = bytearray(batch(*ORDINARY[:3])[61:])
    size = plain[0] // 2 + 1
    plain[size + 3] = 0  # the second says that it is the first
    payload = bytes(plain) if codec == NONE else _deflate(codec, bytes(plain))
    read = flat(read_batch(changed(batch(*ORDINARY[:3], offset=5), {ATTRIBUTES: codec}, payload)))
    assert [each.offset for each in read] == [5, 6, 7]
    assert told(read) == ORDINARY[:3]


def test_attributes_of_a_record_mean_nothing():
    """Kafka takes any byte there, and aiokafka reads on behind one over 127."""
    plain = bytearray(batch(*ORDINARY[:3])[61:])
    plain[plain[0] // 2 + 2] = 0xFF
    assert told(flat(read_batch(changed(batch(*ORDINARY[:3]), {}, bytes(plain))))) == ORDINARY[:3]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ALL)
def test_no_piece_is_more_than_is_parsed_at_once(codec):
    """Records of some bytes become objects of some hundred: not all of a batch at once, however it is compressed."""
    plain = batch((b"k", b"v", []))[61:] * 130_000
    payload = plain if codec == NONE else _deflate(codec, plain)
    raw = changed(batch((b"k", b"v", [])), {ATTRIBUTES: codec, COUNT: 130_000, LAST_DELTA: 129_999}, payload)
    sizes, at = [], 0
    for size, records in read_batch(raw):
        sizes.append(size)
        at += len(list(records))
    assert at == 130_000
    assert max(sizes) <= codecs.PIECE
    assert len(sizes) > 1


def test_what_stands_for_millions_is_made_one_by_one():
    """A batch may claim that many, and be damaged."""
    raw = changed(batch(*ORDINARY[:3]), {ATTRIBUTES: ZSTD, COUNT: 1 << 31 >> 1, LAST_DELTA: (1 << 31 >> 1) - 1}, b"no")
    [(_, records)] = read_batch(raw)
    assert [each.offset for each in islice(records, 3)] == [0, 1, 2]


def test_a_batch_that_compaction_thinned_has_one_flaw():
    """Which offsets are left is not known, so one stands for all of them."""
    raw = changed(batch(*ORDINARY[:3], offset=5), {ATTRIBUTES: ZSTD, LAST_DELTA: 40}, b"broken")
    assert [each.offset for each in flat(read_batch(raw))] == [45]


@pytest.mark.slow
@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_record_that_inflates_to_too_much_leaves_its_value_out(codec, monkeypatch):
    """Key, headers and size of it are known, its neighbours are read, and its bytes are never held."""
    monkeypatch.setattr(lenient, "MAX_RECORD", 1 << 20)
    record = b"big", bytes(40 << 20), [("ce_id", b"7")]
    raw = batch(*ORDINARY[:2], record, *ORDINARY[2:5], codec=codec)
    tracemalloc.start()
    read = flat(read_batch(raw))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20
    flaw = read.pop(2)
    assert told(read) == ORDINARY[:5]
    assert (flaw.offset, flaw.record.key, list(flaw.record.headers)) == (2, b"big", [("ce_id", b"7")])
    assert flaw.left_out > len(record[1])
    assert "1 MiB are read of a compressed record" in flaw.reason


def test_what_is_too_large_may_be_key_or_headers(monkeypatch):
    """They are left out, too; the record keeps its place."""
    monkeypatch.setattr(lenient, "MAX_RECORD", MAX_KEPT)
    huge = bytes(MAX_KEPT + 1)
    records = (huge, b"v", []), (b"k", b"v", [("h", huge)]), (b"k", huge, [("h", huge)]), (b"k", b"v", [])
    flaws = flat(read_batch(batch(*records, codec=GZIP)))
    last = flaws.pop()
    assert [(each.offset, each.record.key, list(each.record.headers)) for each in flaws] == [
        (0, None, []), (1, b"k", []), (2, b"k", []),
    ]  # fmt: skip
    assert (last.offset, last.value) == (3, b"v")


def test_a_batch_inflates_to_so_much_only(monkeypatch):
    """Past the limit the rest of its records are flaws that name it."""
    monkeypatch.setattr(codecs, "MAX_BATCH", 2 << 20)
    read = flat(read_batch(batch(*[(b"k", bytes(1 << 20), [])] * 5, codec=ZSTD)))
    assert [type(each) is Flaw for each in read] == [False, True, True, True, True]
    assert read[1].reason == "it inflates to more than 2 MiB"


@given(st.sampled_from(ALL[1:]), st.binary(max_size=200))
def test_no_payload_raises_anything_else(codec, payload):
    """Whatever the bytes are, it is a CodecError or some pieces."""
    try:
        pieces = list(inflate(codec, payload))
    except CodecError:
        return
    assert all(isinstance(piece, bytes) for piece in pieces)


@given(st.sampled_from(ALL), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_no_batch_raises(codec, changes):
    """With any bytes changed, what is read is in offset order."""
    plain = bytearray(batch(*ORDINARY[:8])[61:])
    for place, value in changes:
        plain[place % len(plain)] = value
    payload = bytes(plain) if codec == NONE else _deflate(codec, bytes(plain))
    flat(read_batch(changed(batch(*ORDINARY[:8]), {ATTRIBUTES: codec}, payload)))
