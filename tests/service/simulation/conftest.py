from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Puts torch's process-wide switches back after a job ran inside the test's process."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
