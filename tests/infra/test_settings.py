from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra import settings as module
from infra.errors import InvalidInput
from infra.settings import ENV_PREFIX, Settings


def test_defaults_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.home == tmp_path / ".mlpl"
    assert settings.mongodb_uri is None
    assert settings.host == "127.0.0.1"


def test_the_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPL_PORT", "9000")
    monkeypatch.setenv("MLPL_DATABASE", "fleet")
    monkeypatch.setenv("MLPL_ACCESS_TOKEN", "")
    settings = module.load(port=9001, host=None)
    assert (settings.port, settings.database, settings.access_token, settings.host) == (
        9001,
        "fleet",
        None,
        "127.0.0.1",
    )


def test_the_home_stays_where_it_was_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLPL_HOME", "somewhere/home")
    settings = Settings()
    monkeypatch.chdir("/")
    assert settings.home == tmp_path / "somewhere" / "home"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLPL_PORT", "http"),
        ("MLPL_PORT", "70000"),
        ("MLPL_DATABASE", "a.b"),
        ("MLPL_OBJECT_STORE", "gs://bucket"),
        ("MLPL_OBJECT_STORE", "s3://"),
        ("MLPL_LABEL_STUDIO_URL", "localhost:8080"),
        ("MLPL_DEVICE", "tpu"),
        ("MLPL_LOG_FORMAT", "xml"),
        ("MLPL_POLL_INTERVAL_S", "0"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_naming_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=f"^{variable} cannot be used: ") as raised:
        module.load()
    assert "\n" not in raised.value.message


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(InvalidInput):
        module.load(prot=1)


def test_secrets_do_not_show_but_reach_our_own_processes() -> None:
    settings = Settings(access_token=SecretStr("hunter2"), port=0)
    assert "hunter2" not in repr(settings)
    environment = settings.as_environment()
    assert environment["MLPL_ACCESS_TOKEN"] == "hunter2"
    assert "MLPL_MONGODB_URI" not in environment


def test_a_process_given_our_environment_has_our_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = settings.model_copy(update={"mongodb_uri": SecretStr("mongodb://h/"), "image_url_lifetime_s": 5})
    for name, value in ours.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == ours


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert ENV_PREFIX == "MLPL_"


def test_reading_settings_loads_nothing_heavy() -> None:
    program = "import infra.settings, infra.errors, sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"torch", "pymongo", "numpy", "obstore", "pydantic_settings", "boto3", "fastapi"}


def test_opening_the_platform_loads_no_models() -> None:
    program = "import infra.platform, infra.leases, infra.signing, infra.mongod, sys; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"torch", "numpy", "boto3", "botocore", "pyarrow", "fastapi", "faiss"}
