"""Settings of the node: what is wrong is refused with a sentence that names the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ichnos.cli.main import run
from ichnos.service.settings import Destination, NodeSettings, ReceiverSettings, SendingSettings


def check(tmp_path: Path, tree: object, *flags: str) -> int:
    file = tmp_path / "node.yaml"
    file.write_text(yaml.safe_dump(tree))
    return run(["serve", "--config", str(file), "--check", *flags])


def test_defaults_listen_on_loopback_alone() -> None:
    settings = NodeSettings()
    assert settings.receiver.host == settings.web.host == "127.0.0.1"
    assert settings.sending.destinations == ()


def test_flags_win_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {"home": str(tmp_path / "a"), "receiver": {"port": 1104, "ae_title": "NODE"}}
    assert check(tmp_path, tree, "--dicom-port", "2104") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["receiver"]["port"] == 2104
    assert shown["receiver"]["ae_title"] == "NODE"
    assert shown["web"]["port"] == NodeSettings().web.port
    assert not (tmp_path / "a").exists()  # a check changes nothing


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"receiver": {"port": 99999}}, "receiver.port"),
        ({"receiver": {"host": "0.0.0.0"}}, "no peer is listed"),
        ({"receiver": {"ae_title": "A" * 17}}, "1 to 16 ASCII characters"),
        ({"receiver": {"tls_key": "a.pem"}}, "both receiver.tls_certificate and receiver.tls_key"),
        ({"assembly": {"quiet_s": 0}}, "assembly.quiet_s"),
        ({"nonsense": 1}, "nonsense"),
        ({"sending": {"destinations": [{"name": "PACS"}]}}, "needs host and ae_title"),
        ({"sending": {"destinations": [{"name": "W", "kind": "stow", "url": "ftp://x"}]}}, "http(s)"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: object, sentence: str
) -> None:
    assert check(tmp_path, tree) == 3
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("content", "code"), [("[1, 2]", 3), ("a: [", 3), ("", 0)])
def test_a_file_that_holds_no_settings(tmp_path: Path, content: str, code: int) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(content)
    assert run(["serve", "--config", str(file), "--check"]) == code


def test_an_unknown_part_of_the_node_is_bad_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["serve", "printer", "--home", str(tmp_path / "n")]) == 3
    assert "receiver, assembler, worker, sender, web" in capsys.readouterr().err


def test_two_destinations_of_one_name_are_refused() -> None:
    one = Destination(name="PACS", ae_title="P", host="h")
    with pytest.raises(ValidationError, match="two destinations are called PACS"):
        SendingSettings(destinations=(one, one))


def test_settings_survive_a_round_trip_through_yaml() -> None:
    settings = NodeSettings(
        home=Path("/srv/node"),
        receiver=ReceiverSettings(ae_title="NODE", port=0),
        sending=SendingSettings(destinations=(Destination(name="P", ae_title="P", host="h", port=11),)),
    )
    text = yaml.safe_dump(settings.model_dump(mode="json"))
    assert NodeSettings.model_validate(yaml.safe_load(text)) == settings
    assert settings.destination("P") is settings.sending.destinations[0]
    assert settings.destination("Q") is None


def test_any_setting_is_set_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, {"assembly": {"quiet_s": 7}}, "--set", "assembly.quiet_s=3", "--home", "n") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["assembly"]["quiet_s"], shown["home"]) == (3, "n")
    assert check(tmp_path, {}, "--set", "assembly.quite_s=3") == 3
    assert "did you mean quiet_s?" in capsys.readouterr().err


def test_the_settings_file_that_config_prints_is_one_that_serve_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "serve"]) == 0
    text = capsys.readouterr().out
    assert "# seconds without a new image" in text
    assert NodeSettings.model_validate(yaml.safe_load(text)) == NodeSettings()


def test_files_that_are_named_and_missing_are_said_before_the_node_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = {"tls_certificate": str(tmp_path / "node.pem"), "tls_key": str(tmp_path / "node.key")}
    assert check(tmp_path, {"receiver": tls}) == 3
    said = capsys.readouterr().err
    assert "receiver.tls_certificate" in said
    assert "receiver.tls_key" in said
