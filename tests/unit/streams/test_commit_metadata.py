from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka import commit_metadata as memo
from streams.kafka.commit_metadata import METADATA_LIMIT, CompletedOffsets, Identity, InvalidCommitMetadata

OWNER = "millrace/requests/3"
HERE = Identity("a cluster", "DFaW4DbcRA-k8hhPpA9qpQ")
OFFSETS = st.integers(0, 2**53)
TIMESTAMPS = st.integers(0, 2**62)


@st.composite
def ranges_beyond(draw, max_size=30):
    """Draw a commit point, and ascending ranges of finished offsets with at least one unfinished before each."""
    point = draw(OFFSETS)
    ranges, position = [], point
    for gap, run in draw(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=max_size)):
        ranges.append((position + gap, position + gap + run))
        position += gap + run
    return point, tuple(ranges)


@settings(deadline=None)
@given(st.text(max_size=20), ranges_beyond(), TIMESTAMPS)
def test_what_is_remembered_is_read_back(owner, drawn, timestamp):
    """Any ranges that fit the limit survive the commit, with the timestamp of the record at its point."""
    point, ranges = drawn
    metadata = memo.encode(owner, HERE, point, timestamp, ranges)
    assert metadata.isascii()
    assert memo.decode(owner, HERE, point, metadata) == (CompletedOffsets(timestamp, ranges) if ranges else None)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**60), st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 3000), TIMESTAMPS)
def test_what_no_longer_fits_is_left_out_from_the_end(point, gap, run, count, timestamp):
    """Metadata never passes the broker's limit, and what it holds is the beginning of the list, not less than fits."""
    step = gap + run
    ranges = [(point + n * step + gap, point + (n + 1) * step) for n in range(count)]
    metadata = memo.encode(OWNER, HERE, point, timestamp, ranges)
    kept = memo.decode(OWNER, HERE, point, metadata).ranges
    assert len(metadata) <= METADATA_LIMIT
    assert list(kept) == ranges[: len(kept)]
    if len(kept) < count:
        longest_part = len(metadata.rsplit(",", 1)[-1]) + 1
        assert len(metadata) + longest_part > METADATA_LIMIT - 2


def test_a_thousand_finished_behind_one_slow_record_fit_easily():
    """The case that it is made for takes a few bytes."""
    metadata = memo.encode(OWNER, HERE, 5_000_000_000, 1_700_000_000_000, [(5_000_000_001, 5_000_001_001)])
    assert len(metadata) < 80


@pytest.mark.parametrize("ranges", [(), []])
def test_nothing_finished_beyond_the_point_is_no_metadata(ranges):
    """Without ranges the metadata is the signature, which lists nothing; so does empty metadata."""
    assert memo.encode(OWNER, HERE, 7, 1, ranges) == memo.sign(OWNER, HERE)
    assert memo.decode(OWNER, HERE, 7, memo.sign(OWNER, HERE)) is None
    assert memo.decode(OWNER, HERE, 7, "") is None


@pytest.mark.parametrize("other", ["millrace/requests/4", "millrace/other/3", "other/requests/3", ""])
def test_another_s_memo_is_not_trusted(other):
    """Metadata of another group, topic or partition is refused as such."""
    metadata = memo.encode(OWNER, HERE, 7, 1, [(8, 9)])
    with pytest.raises(InvalidCommitMetadata, match="written for another group, topic or partition"):
        memo.decode(other, HERE, 7, metadata)


@pytest.mark.parametrize("point", [0, 3, 6, 8, 24])
def test_a_list_is_trusted_at_its_own_offset_alone(point):
    """A tool that commits another offset with the text of before shifts nothing."""
    metadata = memo.encode(OWNER, HERE, 7, 1, [(8, 9)])
    with pytest.raises(InvalidCommitMetadata, match=f"written for offset 7, committed at {point}"):
        memo.decode(OWNER, HERE, point, metadata)


ELSEWHERE = [Identity("a cluster", "another-topic-id"), Identity("a mirror", HERE.topic), Identity("a cluster", "")]


@pytest.mark.parametrize("identity", ELSEWHERE)
def test_a_list_is_trusted_in_the_very_topic_alone(identity):
    """What a topic made again, a mirror, or a broker without topic ids finds is not trusted."""
    metadata = memo.encode(OWNER, HERE, 7, 1, [(8, 9)])
    with pytest.raises(InvalidCommitMetadata, match="in another cluster, or for a former topic"):
        memo.decode(OWNER, identity, 7, metadata)


def test_an_offset_is_void_in_a_topic_made_again_alone():
    """A mirror's offset was translated by who carried it there; an unsigned one was set by hand."""
    for metadata in (memo.sign(OWNER, HERE), memo.encode(OWNER, HERE, 7, 1, [(8, 9)])):
        assert [memo.is_void(OWNER, identity, metadata) for identity in (HERE, *ELSEWHERE)] == [
            False,
            True,
            False,
            False,
        ]
        assert not memo.is_void("another/requests/3", ELSEWHERE[0], metadata)
    for unsigned in ("", "x", "mr1 x 0 1+1", "mr2", "mr2 a b"):
        assert not memo.is_void(OWNER, HERE, unsigned)


def test_a_memo_of_the_release_before_lists_nothing():
    """It did not say of which topic it was: what it lists is answered again, without being an alarm."""
    assert memo.decode(OWNER, HERE, 7, "mr1 0f3a9c11 1700000000000 1+5") is None


def test_without_a_topic_id_nothing_is_remembered():
    """Where brokers have no topic ids, nobody could tell whether a list is still true."""
    assert memo.encode(OWNER, Identity("a cluster", ""), 7, 1, [(8, 9)]) == ""


@settings(deadline=None)
@given(ranges_beyond(max_size=2000))
def test_what_was_cut_is_the_beginning(drawn):
    """Metadata made without a limit is cut to the limit between two ranges."""
    point, ranges = drawn
    whole = memo.encode(OWNER, HERE, point, 1, ranges, limit=1 << 30)
    kept = memo.decode(OWNER, HERE, point, memo.cut(whole))
    assert len(memo.cut(whole)) <= METADATA_LIMIT
    assert (kept.ranges if kept else ()) == ranges[: len(kept.ranges) if kept else 0]
    assert memo.signature(whole) == memo.sign(OWNER, HERE)


HEAD = memo.encode(OWNER, HERE, 0, 1, [(1, 2)]).rsplit(" ", 1)[0]


@pytest.mark.parametrize(
    "metadata",
    [
        " ",
        "x",
        "mr2",
        "mr3 x",
        "garbage metadata of another tool",
        '{"offset":1}',
        "\0" * 100,
        "x" * 5000,
        "mr2 " * 1000,
        "ünïcödé",
        HEAD,
        HEAD + " ",
        HEAD + " 1",
        HEAD + " +",
        HEAD + " 1+",
        HEAD + " +1",
        HEAD + " 1+0",
        HEAD + " 0+0",
        HEAD + " 1+1,",
        HEAD + " ,1+1",
        HEAD + " 1+1,,1+1",
        HEAD + " 1+1 ",
        HEAD + " 1+1 1+1",
        HEAD + "  1+1",
        HEAD + " 1-1",
        HEAD + " -1+1",
        HEAD + " 1+-1",
        HEAD + " 1+1+1",
        HEAD + " A+1",
        HEAD + " 1.5+1",
        HEAD + " 1_0+1",
        HEAD + " ٣+1",
        HEAD + " 1+1\n",
        HEAD + " " + "z" * 14 + "+1",
        HEAD + " 1+" + "1" * 5000,
        HEAD.replace("mr2", "mr3") + " 1+1",
        HEAD.replace("mr2", "MR2") + " 1+1",
        HEAD.rsplit(" ", 1)[0] + " x 1+1",
        HEAD.rsplit(" ", 1)[0] + " 1.5 1+1",
        HEAD.rsplit(" ", 1)[0] + " -1 1+1",
        HEAD.rsplit(" ", 1)[0] + "  1+1",
    ],
)
def test_garbage_is_not_trusted(metadata):
    """Metadata that is torn, foreign, of another version or planted raises UntrustedMemo, never anything else."""
    with pytest.raises(InvalidCommitMetadata) as caught:
        memo.decode(OWNER, HERE, 0, metadata)
    assert 0 < len(str(caught.value)) < 100


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=40) | st.text(alphabet="0129az+, -", max_size=30).map(lambda rest: f"{HEAD} {rest}"),
    st.integers(0, 99),
)
def test_any_metadata_is_refused_or_holds_ascending_ranges(metadata, point):
    """Whatever stands there, either it is not trusted or it claims proper ranges from the commit point on."""
    try:
        found = memo.decode(OWNER, HERE, point, metadata)
    except InvalidCommitMetadata:
        return
    if found is None:
        assert metadata == ""
        return
    position = point
    for start, stop in found.ranges:
        assert position <= start < stop
        position = stop
    assert found.end() == position


@settings(deadline=None)
@given(ranges_beyond(max_size=6), st.integers(-3, 40))
def test_an_offset_is_contained_if_a_range_holds_it(drawn, distance):
    """Membership agrees with looking through all ranges, at their edges and between them."""
    point, ranges = drawn
    held = CompletedOffsets(0, ranges)
    edges = [point + distance, *(edge + d for run in ranges for edge in run for d in (-1, 0, 1))]
    assert [offset in held for offset in edges] == [
        any(start <= offset < stop for start, stop in ranges) for offset in edges
    ]


SMALL = CompletedOffsets(0, ((3, 5), (8, 10)))


@pytest.mark.parametrize(
    ("offset", "rest"),
    [
        (0, [(3, 5), (8, 10)]),
        (3, [(3, 5), (8, 10)]),
        (4, [(4, 5), (8, 10)]),
        (5, [(8, 10)]),
        (9, [(9, 10)]),
        (10, []),
        (99, []),
    ],
)
def test_beyond_an_offset_only_the_rest_is_claimed(offset, rest):
    """Ranges before the offset are left out, and the one it lies in is cut."""
    assert list(SMALL.beyond(offset)) == rest


def test_the_end_is_after_the_last_claimed():
    """The end tells how long the log must be for the claims to be true; without claims it asks nothing."""
    assert SMALL.end() == 10
    assert CompletedOffsets(0, ()).end() == 0


@pytest.mark.parametrize("timestamp", [-1, -(2**62)])
def test_without_a_timestamp_nothing_is_remembered(timestamp):
    """A record without a timestamp cannot tell one log from another, so the commit says its position alone."""
    assert memo.encode(OWNER, HERE, 7, timestamp, [(8, 9)]) == memo.sign(OWNER, HERE)


@pytest.mark.parametrize("timestamp", ["1" * 20, "\u0663", "\xb2", "-1", "+1", "1e3", ""])
def test_a_timestamp_that_kafka_cannot_have_is_not_trusted(timestamp):
    """Only up to 19 ASCII digits are a timestamp."""
    with pytest.raises(InvalidCommitMetadata, match=r"^not in our format$"):
        memo.decode(OWNER, HERE, 0, f"{HEAD.rsplit(' ', 1)[0]} {timestamp} 1+1")
