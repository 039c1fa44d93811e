from __future__ import annotations

from infra.platform import Platform


def test_platform_fixture_keeps_documents_and_objects(platform: Platform) -> None:
    platform.objects.put("a/b", b"hello")
    platform.database["notes"].insert_one({"_id": "x", "key": "a/b"})
    note = platform.database["notes"].find_one({"_id": "x"})
    assert note is not None
    assert platform.objects.get(note["key"]) == b"hello"
