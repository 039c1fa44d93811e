"""Importing predictions from the page of models, in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from annotation import tasks
from infra.platform import Platform
from selection.fleet.frames import Frame
from service import reconcile

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_file_of_predictions_becomes_a_model(
    page: Page, address: str, small_platform: Platform, fleet: list[Frame]
) -> None:
    from playwright.sync_api import expect

    classes = ["car", "person"]
    tasks.create(small_platform.database, name="t1", kind="multilabel", classes=classes, now=reconcile.now_utc())
    page.goto(f"{address}/models")
    page.get_by_role("button", name="Import predictions").click()
    dialog = page.get_by_role("dialog", name="Import predictions")
    line = json.dumps({"frame_id": fleet[0].frame_id, "probabilities": [0.9, 0.1]})
    dialog.get_by_label("File", exact=True).set_input_files(
        {"name": "theirs.jsonl", "mimeType": "application/json", "buffer": b"{}\n"}
    )
    dialog.get_by_label("Name of the model").fill("theirs")
    dialog.get_by_role("button", name="Import").click()
    expect(dialog.get_by_role("alert")).to_contain_text("nothing in theirs.jsonl could be used")
    dialog.get_by_label("File", exact=True).set_input_files(
        {"name": "theirs.jsonl", "mimeType": "application/json", "buffer": line.encode()}
    )
    dialog.get_by_role("button", name="Import").click()
    expect(page.locator("#notes")).to_contain_text("Predictions of 1 frame imported as imported-t1-theirs")
    expect(dialog).to_have_count(0)
    expect(page.locator('[data-model="imported-t1-theirs"]')).to_contain_text("current")
