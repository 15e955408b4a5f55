"""The image with a shell: who may log in, and what a session has. The SSH client is the image's own."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.image.engine import SHELL_IMAGE, Container, call, started

pytestmark = [pytest.mark.image, pytest.mark.timeout(300)]

SECRET = "canary-of-the-shell"
OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
BY_KEY = [*OPTIONS, "-i", "/keys/id", "-o", "BatchMode=yes"]


def new_key() -> tuple[str, str]:
    """A private key, and its line of the kind that is in id_ed25519.pub."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, key.public_key().public_bytes(
        Encoding.OpenSSH, PublicFormat.OpenSSH
    ).decode() + " me@home"


@pytest.fixture(scope="module")
def key() -> tuple[str, str]:
    return new_key()


@pytest.fixture(scope="module")
def shell(key: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container with a server for one key, behind a line that is none, and with odd variables."""
    keys = tmp_path_factory.mktemp("keys")
    (keys / "id").write_text(key[0])
    (keys / "id").chmod(0o600)
    (keys / "other").write_text(new_key()[0])
    (keys / "other").chmod(0o600)
    environ = {
        "PUBLIC_KEY": f"# mine\nno key\n{key[1]}\r\n",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "TWO_LINES": 'a "b\n$c',
    }
    options = {"user": 0, "image": SHELL_IMAGE, "network": "none", "locked": False}
    with started(volumes={keys: "/keys:ro"}, environ=environ, **options) as container:  # type: ignore[arg-type]
        container.wait_for(lambda: "SSH server on port 22" in container.log, "server", seconds=60)
        yield container


def ssh(container: Container, *words: str, options: list[str] = BY_KEY) -> tuple[int, str]:
    done = call("exec", container.name, "ssh", *options, "root@127.0.0.1", *words, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_key_of_the_variable_logs_in_and_has_the_container_s_variables(shell: Container) -> None:
    code, said = ssh(
        shell, "sidestep --version; printenv AWS_SECRET_ACCESS_KEY; printenv TWO_LINES; echo $HOME"
    )
    assert code == 0, said
    version, *rest = said.splitlines()
    assert version.startswith("sidestep ") and rest == [SECRET, 'a "b', "$c", "/root"]
    code, said = ssh(shell, "bash -lc 'command -v python; printenv AWS_SECRET_ACCESS_KEY'")
    assert (code, said.splitlines()) == (0, ["/opt/sidestep/bin/python", SECRET])


def test_another_key_and_a_password_do_not(shell: Container) -> None:
    for options in (
        [*OPTIONS, "-i", "/keys/other", "-o", "BatchMode=yes"],
        [*OPTIONS, "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password"],
    ):
        code, said = ssh(shell, "true", options=options)
        assert code == 255 and "Permission denied (publickey)" in said


def test_the_line_that_is_no_key_is_named_and_its_text_is_not_shown(shell: Container) -> None:
    assert "line 2" in shell.log and "no key\n" not in shell.log and SECRET not in shell.log


def test_no_file_that_others_can_read_has_the_secret(shell: Container) -> None:
    script = f"grep -rIl {SECRET} /etc /root /run /tmp /var /workspace 2>/dev/null"
    script += "; stat -c %a /run/sshd/authorized_keys"
    assert call("exec", shell.name, "sh", "-c", script).stdout.split() == ["600"]


def test_each_container_has_host_keys_of_its_own(shell: Container) -> None:
    assert call("exec", shell.name, "ls", "/etc/ssh/ssh_host_ed25519_key").returncode == 0
    with started("true", user=0, image=SHELL_IMAGE, network="none", locked=False) as other:
        assert other.wait() == 0
        assert "SSH" not in other.log  # a command and no key: no server, and no word about one


@pytest.mark.parametrize("given", ["", "null", "PRIVATE"])
def test_without_a_usable_key_it_says_so_in_one_line_and_stays_up(given: str) -> None:
    value = new_key()[0] if given == "PRIVATE" else given
    with started(
        user=0, environ={"PUBLIC_KEY": value}, image=SHELL_IMAGE, network="none", locked=False
    ) as container:
        container.wait_for(lambda: "PUBLIC_KEY" in container.log, "word about the key", seconds=60)
        [line] = container.log.splitlines()
        assert "no SSH server" in line and "id_ed25519.pub" in line
        assert container.state["Running"]
        assert call("exec", container.name, "pgrep", "sshd", check=False).returncode != 0
        call("stop", "--time", "20", container.name)
        assert container.wait() == 0  # by the signal, not by a kill
