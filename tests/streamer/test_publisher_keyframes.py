"""The publisher's key frames: bounded, and those of the map stay longest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.protocol import encode
from streamer.protocol.limits import ENTRIES_PER_MESSAGE, header_limit
from streamer.protocol.requests import KeyframeEntry, KeyframesAnswer
from streamer.publisher.keyframes import KeyframeList


def entry(seq: int, chunk: int | None = None, x: float = 0.0) -> KeyframeEntry:
    """A key frame at `x`."""
    pose = [1.0, 0, 0, x, 0, 1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]
    return KeyframeEntry(seq=seq, stamp_ns=2**62 + seq, camera="front", chunk=chunk, c2w=pose)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.binary(max_size=3)), max_size=60),
    st.integers(1, 12),
    st.integers(1, 6),
)
def test_bounded_whatever_comes(
    told: list[tuple[int, bool, bytes]], most: int, pictured: int
) -> None:
    held = KeyframeList(most, pictured)
    for seq, in_map, picture in told:
        before = {known.seq: known for known in held.entries()}
        new = entry(seq, seq if in_map else None)
        held.add([new], [picture])
        entries = held.entries()
        seqs = [known.seq for known in entries]
        assert seqs == sorted(seqs) and len(held) == len(seqs) <= most
        assert sum(map(bool, held.thumbnails(entries))) <= pictured
        gone = {**before, seq: new}.keys() - set(seqs)
        if any({**before, seq: new}[lost].chunk is not None for lost in gone):
            assert all(known.chunk is not None for known in entries)


def test_newest_pictures_and_what_changes_later() -> None:
    held = KeyframeList(pictured=2)
    held.add([entry(seq, seq) for seq in range(4)], [b"a", b"b", b"c", memoryview(b"d")])
    assert held.thumbnails(held.entries()) == [b"", b"", b"c", b"d"]
    held.add([entry(3, None)], [b""])
    held.move([(0, entry(0, x=5.0).c2w), (99, entry(99).c2w)])
    assert [known.chunk for known in held.entries()] == [0, 1, 2, None]
    assert [known.seq for known in held.entries(newest=3)] == [1, 2, 3]
    assert held.entries(newest=9) == held.entries() and held.entries(newest=0) == []
    assert held.entries()[0].c2w[3] == 5.0
    assert held.thumbnails(held.entries()) == [b"", b"", b"c", b"d"]


def test_the_answer_fits_into_a_header_however_long_the_stream() -> None:
    held = KeyframeList()
    held.add([entry(2**52 + n, 2**52, x=0.1) for n in range(12_000)], [b""] * 12_000)
    answer = KeyframesAnswer(id=2**52, keyframes=held.entries())
    assert len(answer.keyframes) == ENTRIES_PER_MESSAGE
    assert len(encode(answer)[1]) < header_limit(b"KEYFRAMES")
