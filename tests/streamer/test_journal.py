"""The journal: what was durable is read back, once and in order, whatever happened in between."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import (
    POSE,
    CuttableFiles,
    Foreseen,
    FullFiles,
    PowerCut,
    RefusingFiles,
    frame,
    mixed,
    of_format,
    seqs,
)
from mcap.reader import SeekingReader

from streamer.journal import (
    Begin,
    Committer,
    Corrected,
    Dropped,
    FrameEntry,
    Item,
    Journal,
    JournalBusy,
    JournalCorrupt,
    JournalError,
    JournalFull,
    JournalGone,
    JournalReadOnly,
    JournalVersion,
    Opened,
    read_file,
    read_journal,
    segments,
)
from streamer.protocol.messages import Hello

HELLO = Hello(proto=(1, 0), session="kitchen", client="robot", convention="opencv")


def opened(folder: Path, **options: object) -> Journal:
    return Journal.open(folder, "kitchen", 1, **options)  # type: ignore[arg-type]


def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    items = [
        Item(Opened(hello=HELLO)),
        frame(0, depth=b"\1\2" * 9, mask=b"png"),
        frame(1, bytes(64 * 48 * 3), encoding="rgb8", camera="back"),
        *mixed(40)[2:],
    ]
    journal = opened(tmp_path, segment_bytes=6000)
    for item in items:
        journal.write([item])
    written = journal.history
    journal.close()
    read = [one for one in read_journal(tmp_path) if not isinstance(one.entry, Begin)]
    assert [one.entry for one in read] == [item.entry for item in items]
    for one, item in zip(read, items):
        assert tuple(map(bytes, one.parts)) == item.parts
    again = opened(tmp_path)
    assert again.history == written
    again.close()


def test_robotics_tools_find_what_they_know(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write([frame(seq, depth=b"\0\1") for seq in range(2**32 - 1, 2**32 + 2)])
    journal.close()
    [segment] = segments(tmp_path)
    with open(segment.path, "rb") as file:
        reader = SeekingReader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        names = {schema.name for schema in summary.schemas.values()}
        assert names == {
            "foxglove.CompressedImage",
            "foxglove.CameraCalibration",
            "foxglove.PoseInFrame",
        }
        images = list(reader.iter_messages(topics=["/kitchen/camera/front/image"]))
        assert [message.sequence for _, _, message in images] == [2**32 - 1, 0, 1]
        depths = list(reader.iter_messages(topics=["/kitchen/camera/front/depth"]))
        assert [bytes(message.data) for _, _, message in depths] == [b"\0\1"] * 3
        counts = summary.statistics.channel_message_counts
        assert sum(counts.values()) == summary.statistics.message_count == 14


def test_files_are_the_users_alone(tmp_path: Path) -> None:
    journal = opened(tmp_path / "a" / "kitchen")
    journal.write([frame(0)])
    journal.close()
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def written_groups(folder: Path, files: CuttableFiles, groups: list[list[Item]]) -> list[Item]:
    """Write until the power goes; what was acknowledged by then."""
    durable: list[Item] = []
    try:
        journal = opened(folder, files=files, segment_bytes=6000)
        try:
            for group in groups:
                journal.write(group)
                durable += group
        finally:
            # The kernel lets go of a dead process's lock.
            os.close(journal._lock)
    except PowerCut:
        pass
    return durable


def test_power_cut_at_every_step_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    items = mixed(24)
    groups = [items[start : start + 4] for start in range(0, len(items), 4)]
    never = CuttableFiles(cut_at=10**9)
    written_groups(tmp_path / "never", never, groups)
    assert never.steps > 20
    for cut_at in range(never.steps):
        folder = tmp_path / str(cut_at)
        durable = written_groups(folder, CuttableFiles(cut_at, seed=cut_at), groups)
        journal = opened(folder)
        read = [one for one in read_journal(folder) if not isinstance(one.entry, Begin)]
        entries = [item.entry for item in items]
        assert [one.entry for one in read] == entries[: len(read)]
        assert len(durable) <= len(read)
        for one, item in zip(read, items):
            assert tuple(map(bytes, one.parts)) == item.parts
        # It goes on where it stands, and every file but the new one is closed.
        journal.write(items[len(read) :])
        journal.close()
        after = [one.entry for one in read_journal(folder)]
        assert [entry for entry in after if not isinstance(entry, Begin)] == entries
        for segment in segments(folder):
            with open(segment.path, "rb") as file:
                assert SeekingReader(file).get_summary() is not None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_at_the_end_costs_no_entry_before_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    items = mixed(9)
    journal = opened(folder)
    ends = []
    for item in items:
        journal.write([item])
        assert journal.durable_end is not None
        ends.append(journal.durable_end[1])
    os.close(journal._lock)
    [segment] = segments(folder)
    content = bytearray(segment.path.read_bytes())
    # A share of it: the length differs by some bytes from run to run.
    place = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(content))
    content[place] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[place + 1 :]
    segment.path.write_bytes(content)
    journal = opened(folder)
    journal.close()
    read = [
        one.entry for one in read_journal(folder) if not isinstance(one.entry, Begin)
    ]  # the files are whole again
    before = sum(end <= place for end in ends)
    assert len(read) >= before
    assert read[:before] == [item.entry for item in items[:before]]


def test_a_torn_end_is_cut_off_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = opened(tmp_path)
    journal.write(mixed(3))
    assert journal.durable_end is not None
    path, whole = journal.durable_end
    os.close(journal._lock)
    for torn in (b"\0" * 100, path.read_bytes()[whole // 2 : whole - 1]):
        with open(path, "r+b") as file:
            file.truncate(whole)
            file.seek(whole)
            file.write(torn)
        caplog.clear()
        opened(tmp_path).close()
        assert f"{path}: torn off at byte {whole} of {whole + len(torn)}" in caplog.text
        assert len(list(read_journal(tmp_path))) == len(mixed(3)) + 1


def test_damage_in_a_closed_file_is_named(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=5000)
    for item in mixed(40):
        journal.write([item])
    journal.close()
    files = segments(tmp_path)
    assert len(files) > 2
    content = bytearray(files[1].path.read_bytes())
    content[len(content) // 2] ^= 1
    files[1].path.write_bytes(content)
    with pytest.raises(JournalCorrupt, match=files[1].path.name):
        list(read_journal(tmp_path))
    last = bytearray(files[-1].path.read_bytes())
    last[len(last) // 3] ^= 1
    files[-1].path.write_bytes(last)
    with pytest.raises(JournalCorrupt, match=files[-1].path.name):
        opened(tmp_path)


def test_reading_from_a_frame_opens_only_the_files_it_needs(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=5000)
    for item in mixed(60):
        journal.write([item])
    journal.close()
    files = segments(tmp_path)
    read = [one.entry for one in read_journal(tmp_path, from_seq=50)]
    assert 50 in seqs(read) and seqs(read)[-1] == 59
    assert len(seqs(read)) < 30
    assert isinstance(read[0], Begin) and read[0].counts.rejected > 0
    assert len(files) > 4


def test_a_correction_before_the_frame_that_begins_a_file_is_read_with_it(tmp_path: Path) -> None:
    moved = Corrected(revision=1, client="slam", entries=[(0, POSE.reshape(-1).tolist())])
    journal = opened(tmp_path, segment_bytes=1)
    for item in (frame(0), Item(moved), frame(1)):
        journal.write([item])
    journal.close()
    assert len(segments(tmp_path)) == 3
    assert moved in [one.entry for one in read_journal(tmp_path, from_seq=1)]


def test_a_full_disk_is_named_and_what_follows_is_written_once(tmp_path: Path) -> None:
    files = FullFiles(room=8000)
    journal = opened(tmp_path, files=files)
    items = mixed(30)
    written = 0
    with pytest.raises(JournalFull, match="free some of the disk"):
        for item in items:
            journal.write([item])
            written += 1
    assert 0 < written < len(items)
    with pytest.raises(JournalFull):
        journal.write(items[written:])
    files.room = 10**9
    journal.write(items[written:])
    journal.close()
    entries = [e.entry for e in read_journal(tmp_path) if not isinstance(e.entry, Begin)]
    assert entries == [item.entry for item in items]


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    journal = opened(tmp_path / "kitchen")
    journal.write([frame(0)])
    with pytest.raises(JournalBusy, match="another daemon"):
        opened(tmp_path / "kitchen")
    (tmp_path / "kitchen").rename(tmp_path / "moved")
    with pytest.raises(JournalGone):
        journal.write([frame(1)])
    with pytest.raises(JournalGone):
        journal.write([frame(1)])
    journal.close()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(JournalGone, match="folder is needed"):
        opened(file / "kitchen")
    with pytest.raises(JournalCorrupt, match="not a journal"):
        list(read_file(file))


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.ENOSPC, JournalFull),
        (errno.EDQUOT, JournalFull),
        (errno.EFBIG, JournalFull),
        (errno.EROFS, JournalReadOnly),
        (errno.EACCES, JournalReadOnly),
        (errno.ENOENT, JournalGone),
        (errno.ESTALE, JournalGone),
        (errno.EIO, JournalError),
    ],
)
@pytest.mark.parametrize("call", ["create", "write", "sync"])
def test_whatever_the_disk_refuses_is_named_and_written_once_it_does_not(
    tmp_path: Path, call: str, number: int, named: type[JournalError]
) -> None:
    files = RefusingFiles()
    journal = opened(tmp_path, files=files, segment_bytes=1)
    journal.write([frame(0)])
    files.refused, files.error = call, number
    for _ in range(2):
        with pytest.raises(JournalError, match=os.strerror(number)) as refusal:
            journal.write([frame(1)])
        assert type(refusal.value) is named
    files.refused = ""
    journal.write([frame(1)])
    journal.close()
    assert seqs([one.entry for one in read_journal(tmp_path)]) == [0, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalReadOnly, match="let this user write"):
        opened(tmp_path / "kitchen")


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("number", [2, 9])
def test_another_version_is_named_and_its_file_left_alone(
    tmp_path: Path, number: int, closed: bool
) -> None:
    """A daemon would cut off as torn, or remove, what it takes for damage."""
    path = of_format(tmp_path, number, Foreseen(), closed=closed)
    before = path.read_bytes()
    with pytest.raises(JournalVersion, match=r"splatstream 9\.0"):
        opened(tmp_path)
    with pytest.raises(JournalVersion, match=r"splatstream 9\.0"):
        list(read_journal(tmp_path))
    assert path.read_bytes() == before


def test_a_journal_of_before_is_read(tmp_path: Path) -> None:
    of_format(tmp_path, 1)
    assert [one.entry.format for one in read_journal(tmp_path)] == [1]
    opened(tmp_path).close()


def test_a_new_epoch_begins_empty(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.write([Item(Opened(hello=HELLO)), frame(0)])
    journal.begin_epoch(2)
    journal.write([frame(0, b"other")])
    journal.close()
    read = list(read_journal(tmp_path))
    assert [bytes(one.parts[0]) for one in read if isinstance(one.entry, FrameEntry)] == [b"other"]
    assert isinstance(read[0].entry, Begin) and read[0].entry.hello == HELLO


def test_an_urgent_entry_takes_its_group_along_at_once(tmp_path: Path) -> None:
    committer = Committer(gather_s=1e6)
    queue = committer.add(opened(tmp_path))
    try:
        durable = 0
        committer.put(queue, frame(0))
        last = 0
        for seq in range(1, 4):
            # Alone it would wait for days.
            committer.put(queue, frame(seq))
            last = committer.put(queue, Item(Dropped(seqs=[seq])), urgent=True)
            while durable < last:
                assert select.select([committer.wake_fd], [], [], 60.0)[0], "nothing was written"
                durable = max([durable, *(report.durable for report in committer.collect())])
        assert durable == last == 7
    finally:
        committer.close()
    assert seqs([recorded.entry for recorded in read_journal(tmp_path)]) == [0, 1, 2, 3]
