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


def test_exit_statuses() -> None:
    assert FINISHED == 0


def test_the_service_does_not_restart_what_a_person_has_to_put_right() -> None:
    unit = Path(__file__).parents[2] / "client" / "fedloom-client.service"
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert "RestartPreventExitStatus=2" in lines
    assert "Restart=on-failure" in lines
