from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import Settings

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_in_the_readme_with_its_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    row = next(
        (line for line in README.read_text().splitlines() if line.startswith(f"| `MLPL_{name.upper()}` |")), None
    )
    assert row is not None, f"MLPL_{name.upper()} is missing from the README's settings table"
    assert str(field.description) in row
    assert field.default is None or f"`{field.default}`" in row
