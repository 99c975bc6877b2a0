"""Archives are unpacked in a sandbox, whole or not at all."""

from __future__ import annotations

import stat
import tarfile

import pytest
import samples

from agentrl.sandbox import Session
from agentrl.tools.untrusted import Invalid, Refused
from agentrl.tools.untrusted.archives import Quota, unpack

pytestmark = pytest.mark.asyncio(loop_scope="session")

GOOD = {"a.txt": b"one", "deep/er/b.txt": b"two", "./c.txt": b"three"}


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
async def test_what_is_in_an_archive_comes_out(session: Session, kind: str):
    if kind == "zip":
        data = samples.zip_of(GOOD)
    else:
        entries = [samples.tar_entry(name) for name in GOOD]
        data = samples.tar_of(*entries, content=b"same", compression="" if kind == "tar" else kind)
    await session.put("in", data)
    told = await unpack(session, "in", "out")
    assert (told.entries, told.names) == (3, ["a.txt", "deep/er/b.txt", "c.txt"])
    assert await session.get("out/deep/er/b.txt") == (b"two" if kind == "zip" else b"same")


def linked(target: str) -> bytes:
    return samples.zip_of({"l": target.encode()}, {"l": stat.S_IFLNK | 0o777})


BAD = [
    (linked("/etc"), Refused, "link or device"),
    (samples.zip_of({"../out.txt": b"x"}), Refused, "leave the folder"),
    (samples.zip_of({"a/../../x": b"x"}), Refused, "leave the folder"),
    (samples.zip_of({"/etc/x": b"x"}), Refused, "leave the folder"),
    (samples.zip_of({"..\\x": b"x"}), Refused, "leave the folder"),
    (samples.zip_of({"C:x": b"x"}), Refused, "leave the folder"),
    (samples.zip_of({"d/" * 40 + "x": b"x"}), Refused, "folders deep"),
    (samples.zip_of({"zeros": bytes(48 << 20)}), Refused, "unpacks to more than"),
    (samples.zip_of({"zeros": bytes(3 << 20)}), Refused, "unpacks to more than"),
    (samples.zip_of({str(n): b"" for n in range(2001)}), Refused, "more than 2000 entries"),
    (samples.zip_of(GOOD)[:-30], Invalid, "damaged"),
    (samples.tar_of(samples.tar_entry("l", tarfile.SYMTYPE, "/etc")), Refused, "link"),
    (samples.tar_of(samples.tar_entry("l", tarfile.LNKTYPE, "../x")), Refused, "link"),
    (samples.tar_of(samples.tar_entry("d", tarfile.CHRTYPE)), Refused, "device"),
    (samples.tar_of(samples.tar_entry("d", tarfile.FIFOTYPE)), Refused, "device"),
    (samples.tar_of(samples.tar_entry("../x")), Refused, "leave the folder"),
    (samples.tar_of(samples.tar_entry("/x")), Refused, "leave the folder"),
    (samples.tar_of(samples.tar_entry("x"), samples.tar_entry("x")), Invalid, "twice"),
    (samples.tar_of(samples.tar_entry("x"), content=bytes(3 << 20)), Refused, "unpacks to more than"),
    (b"neither", Invalid, "damaged or of no supported kind"),
]


@pytest.mark.parametrize(("data", "kind", "words"), BAD, ids=range(len(BAD)))
async def test_a_bad_archive_leaves_nothing(session: Session, data, kind, words):
    await session.put("in", data)
    with pytest.raises(kind, match=words):
        await unpack(session, "in", "out")
    assert (await session.exec("ls -A")).stdout == "in\n"


async def test_quotas_can_be_set(session: Session):
    await session.put("in", samples.zip_of(GOOD))
    with pytest.raises(Refused, match="more than 2 entries"):
        await unpack(session, "in", "out", quota=Quota(most_entries=2))
    with pytest.raises(Refused, match="more than 10 bytes"):
        await unpack(session, "in", "out", quota=Quota(most_bytes=10))
    with pytest.raises(Refused, match="archive has more than 50 bytes"):
        await unpack(session, "in", "out", quota=Quota(most_archive_bytes=50))


async def test_a_folder_that_is_there_stays_as_it_is(session: Session):
    await session.put("in", samples.zip_of(GOOD))
    await session.exec("ln -s /tmp out")
    with pytest.raises(Invalid, match="is there already"):
        await unpack(session, "in", "out")
