"""File systems that cannot keep two machines apart, by their mount."""

from pathlib import Path

import pytest

from sidestep.storage.disks import cached_mount

MOUNTS = """\
overlay / overlay rw,relatime,lowerdir=/a:/b 0 0
proc /proc proc rw 0 0
/dev/sdb1 /mnt/disk ext4 rw,noatime 0 0
remote:studio /mnt/my\\040music fuse.rclone rw,nosuid,user_id=0 0 0
/dev/sdc1 /mnt/my\\040music/inside xfs rw 0 0
drive /content/drive fuse rw,nosuid,nodev 0 0
a-bucket /mnt/goofy fuse.goofys rw 0 0
goofys#studio /mnt/older fuse rw 0 0
studio /mnt/covered fuse.s3fs rw 0 0
server:/export /mnt/covered nfs4 rw,vers=4.2 0 0
host:/home /mnt/ssh fuse.sshfs rw 0 0
gcs-bucket /mnt/gcs fuse.gcsfuse rw 0 0
overlay /mnt/drive fuse rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/mnt/my music", "fuse.rclone"),
        ("/mnt/my music/runs/new", "fuse.rclone"),
        ("/content/drive/MyDrive/out", "fuse, drive"),
        ("/mnt/goofy/x", "fuse.goofys"),
        ("/mnt/older", "fuse, goofys#studio"),
    ],
)
def test_those_that_ask_their_server_later(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert cached_mount(Path(path), tmp_path / "mounts") == kind


@pytest.mark.parametrize(
    "path",
    [
        *("/mnt/disk/x", "/home", "/mnt/my music/inside/x", "/mnt/my music 2"),
        *("/mnt/covered/x", "/mnt/ssh/x", "/mnt/gcs/x", "/mnt/drive/x"),
    ],
)
def test_those_that_do_not(tmp_path: Path, path: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert cached_mount(Path(path), tmp_path / "mounts") == ""


def test_a_link_to_such_a_mount(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "mounts").write_text(f"x: {tmp_path}/there fuse.rclone rw 0 0\n")
    assert cached_mount(tmp_path / "link" / "new", tmp_path / "mounts") == "fuse.rclone"
    assert cached_mount(tmp_path / "other", tmp_path / "mounts") == ""


def test_this_machine_and_one_without_proc(tmp_path: Path) -> None:
    assert cached_mount(tmp_path) == ""
    assert cached_mount(tmp_path, tmp_path / "none") == ""
