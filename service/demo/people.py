"""The simulated labellers: the only ones in the demo who know the answers, and they tell them through a labelling backend alone."""

from __future__ import annotations

from collections.abc import Callable

from annotation.backends.protocol import LabellingBackend
from annotation.backends.simulated import SimulatedBackend
from annotation.batches import Batch
from infra.platform import Platform
from service import labelling
from service.demo.answers import AnswerKey


class People:
    """Labellers who answer batches, in process or through a real Label Studio's API.

    Attributes:
        backend: Where batches are pushed to.
        url: The labelling server's address, None in process.
    """

    def __init__(self, platform: Platform, key: AnswerKey, *, label_studio: bool, say: Callable[[str], None]) -> None:
        """Starts Label Studio if that is where they work."""
        self._key = key
        self._token = ""
        self.url: str | None = None
        self.backend: LabellingBackend
        if label_studio:
            self.url, self._token = _label_studio(platform, say=say)
            say(f"the simulated labellers work in Label Studio on {self.url}")
            self.backend = labelling.default_backend(platform)
        else:
            self._simulated = SimulatedBackend(platform.database, answer=key.answer)
            self.backend = self._simulated

    def answer(self, batch: Batch) -> None:
        """Answers everything of a batch that is not answered yet."""
        if self.url is None:
            self._simulated.work(batch_id=batch.batch_id)
            return
        from service.demo.label_studio_people import answer_open_tasks

        answer_open_tasks(self.url, self._token, self._key.answer, batch_id=batch.batch_id)


def _label_studio(platform: Platform, *, say: Callable[[str], None]) -> tuple[str, str]:
    """Address and token of the configured server, or of one that is started under the home."""
    from annotation.backends.label_studio import server

    settings = platform.settings
    if settings.label_studio_url is not None:
        return (
            settings.label_studio_url,
            settings.label_studio_token.get_secret_value() if settings.label_studio_token else "",
        )
    running = server.start(settings.home, progress=say)
    return running.url, running.token
