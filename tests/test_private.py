"""Which files with secrets are kept from others."""

import os
from pathlib import Path

import pytest

from exo.private import exposed

OWN, ROOTS = os.geteuid(), os.geteuid() + 1
FILE = Path("/etc/exo/key")


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((0o100000 | mode, 1, 1, 1, owner, 0, 10, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "remedy"),
    [
        (0o600, OWN, None),
        (0o400, OWN, None),
        (0o640, OWN, "chmod 600 /etc/exo/key"),
        (0o604, OWN, "chmod 600 /etc/exo/key"),
        (0o602, OWN, "chmod 600 /etc/exo/key"),
        # As root hands it to a service: by a group, or an ACL, whose mask stands in a group's place.
        (0o640, ROOTS, None),
        (0o440, ROOTS, None),
        (0o644, ROOTS, "chmod o= /etc/exo/key"),
        (0o444, ROOTS, "chmod o= /etc/exo/key"),
    ],
)
def test_a_file_is_for_its_owner_alone_or_as_another_one_hands_it_over(
    mode: int, owner: int, remedy: str | None
) -> None:
    assert exposed(FILE, status(mode, owner)) == remedy


@pytest.mark.parametrize("owner", [OWN, ROOTS])
@pytest.mark.parametrize("path", ["/run/secrets/key", "/run/credentials/exo-rkllm.service/key"])
def test_what_docker_and_systemd_put_there_is_theirs_to_judge(path: str, owner: int) -> None:
    assert exposed(Path(path), status(0o444, owner)) is None
    assert exposed(Path(f"{path}/../../../etc/key"), status(0o444, owner)) is not None


def test_a_link_into_another_place_is_judged_where_it_leads(tmp_path: Path) -> None:
    """As Kubernetes links each secret to a folder beside it."""
    link = tmp_path / "key"
    link.symlink_to("/run/secrets/..data/key")
    assert exposed(link, status(0o444, OWN)) is None
