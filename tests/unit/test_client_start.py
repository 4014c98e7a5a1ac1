import fcntl
from pathlib import Path

import pytest

from fedloom.client.logs import log
from fedloom.client.settings import ClientSettings
from fedloom.client.start import FINISHED, REFUSED, take_part


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ClientSettings(), "joined no federation"),
        (ClientSettings(join="flt2.x"), "join token: it begins with 'flt1.'"),
        (ClientSettings(insecure="host"), "insecure = 'host': expected HOST:PORT"),
        (ClientSettings(insecure="host:1", name=" "), "a name has at least one letter"),
        (ClientSettings(insecure="host:1"), "no data to train on: --data FILE"),
        (ClientSettings(join=f"flt1.host:1.abcd.{'s' * 32}.{'0' * 64}"), "no data to train on"),
    ],
)
def test_what_a_person_has_to_put_right(
    settings: ClientSettings,
    text: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    assert take_part(settings, root=tmp_path) == REFUSED == 2
    assert text in caplog.text


def test_a_device_without_data_joins_nothing(tmp_path: Path) -> None:
    token = f"flt1.host:1.abcd.{'s' * 32}.{'0' * 64}"
    take_part(ClientSettings(join=token), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_client_leaves_the_identity_of_the_first_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    with (tmp_path / "lock").open("w") as file:
        file.write("77")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        token = f"flt1.host:1.abcd.{'s' * 32}.{'0' * 64}"
        settings = ClientSettings(join=token, data="none.csv", directory=str(tmp_path))
        assert take_part(settings) == REFUSED
    assert "another client (pid 77) works in it; a second one needs a --directory" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_exit_statuses() -> None:
    assert FINISHED == 0


def test_the_service_does_not_restart_what_a_person_has_to_put_right() -> None:
    unit = Path(__file__).parents[2] / "client" / "fedloom-client.service"
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert "RestartPreventExitStatus=2" in lines
    assert "Restart=on-failure" in lines
