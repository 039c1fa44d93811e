from __future__ import annotations

import pickle

import pytest

from infra import errors
from infra.errors import BackendUnavailable, Conflict, Denied, InvalidInput, MlplError, NotFound, StorageFull

ALL = [MlplError, NotFound, Conflict, InvalidInput, Denied, BackendUnavailable, StorageFull, errors.UnsupportedPlatform]


def test_every_kind_has_its_own_stable_code() -> None:
    assert len({kind.code for kind in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_message_and_details_survive_a_process_boundary(kind: type[MlplError]) -> None:
    error = pickle.loads(pickle.dumps(kind("frame ab12 does not exist", frame_id="ab12")))
    assert type(error) is kind
    assert str(error) == error.message == "frame ab12 does not exist"
    assert error.details == {"frame_id": "ab12"}


def test_when_to_ask_again_survives_too() -> None:
    assert pickle.loads(pickle.dumps(BackendUnavailable("away", retry_after_s=7.0))).retry_after_s == 7.0
