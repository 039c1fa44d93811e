"""Which labelling backend serves a batch, as the settings and the running servers have it."""

from __future__ import annotations

from annotation.backends.protocol import LabellingBackend
from annotation.batches import Batch
from annotation.tasks import Task
from infra import signing
from infra.errors import BackendUnavailable, InvalidInput, MlplError
from infra.logs import get_logger
from infra.platform import Platform

log = get_logger(__name__)


def default_backend(platform: Platform) -> LabellingBackend:
    """The Label Studio that new batches go to: the configured one, else the one running under the home.

    Raises:
        BackendUnavailable: There is none; says how to get one.
    """
    from annotation.backends.label_studio import server
    from annotation.backends.label_studio.backend import LabelStudioBackend

    settings = platform.settings
    owner = f"mlpl-{signing.secret(platform.database, name='installation').hex()[:8]}"
    if settings.label_studio_url is not None:
        token = settings.label_studio_token.get_secret_value() if settings.label_studio_token else ""
        return LabelStudioBackend(url=settings.label_studio_url, token=token, owner=owner)
    running = server.running(settings.home)
    if running is None:
        raise BackendUnavailable(
            "no Label Studio is running: start one with `mlpl label-studio start`, "
            "or set MLPL_LABEL_STUDIO_URL and MLPL_LABEL_STUDIO_TOKEN",
            retry_after_s=15.0,
        )
    return LabelStudioBackend(url=running.url, token=running.token, name=running.name, owner=owner)


def can_be_pushed(task: Task) -> bool:
    """Whether the labelling backend serves tasks of this kind."""
    from annotation.backends.label_studio.conversion import QUESTIONS

    return task.kind in QUESTIONS


def check_kind(task: Task) -> None:
    """Makes sure that batches of a task can be pushed at all.

    Raises:
        InvalidInput: Label Studio is not used for tasks of this kind yet.
    """
    from annotation.backends.label_studio.conversion import QUESTIONS

    if not can_be_pushed(task):
        raise InvalidInput(
            f"tasks of kind {task.kind} cannot be pushed to Label Studio yet, only {' and '.join(QUESTIONS)}; "
            "make the batch without --push, and fetch its frames with GET /api/v1/batches/ID/frames",
            task_id=task.task_id,
        )


def backend_of(platform: Platform, batch: Batch) -> LabellingBackend:
    """The backend that holds this batch, or the default one for a batch that is not pushed yet.

    Raises:
        BackendUnavailable: It is not running, or another one runs in its place.
    """
    if batch.backend == "simulated":
        from annotation.backends.simulated import SimulatedBackend

        return SimulatedBackend(platform.database, answer=_nobody)
    backend = default_backend(platform)
    if batch.backend is not None and backend.name != batch.backend:
        raise BackendUnavailable(
            f"batch {batch.batch_id} is in {batch.backend}, but {backend.name} is configured; "
            "set MLPL_LABEL_STUDIO_URL to the server that holds it",
            retry_after_s=60.0,
            batch_id=batch.batch_id,
        )
    return backend


def ask_to_ring(platform: Platform, backend: LabellingBackend, ref: str) -> None:
    """Asks the backend to tell us when someone answers. A courtesy: without it, labels come with the next poll."""
    from annotation.backends.label_studio.backend import LabelStudioBackend

    if isinstance(backend, LabelStudioBackend):
        url = f"{public_url(platform)}/api/v1/webhooks/label-studio"
        try:
            backend.ensure_webhook(ref, url=url, secret=webhook_secret(platform))
        except MlplError as exc:
            log.warning("webhook_refused", backend=backend.name, reason=exc.message)


def webhook_secret(platform: Platform) -> str:
    """What a labelling server must show when it rings."""
    return signing.secret(platform.database, name="webhook").hex()


def public_url(platform: Platform) -> str:
    """Where browsers and labelling servers reach this installation, without a slash at the end."""
    settings = platform.settings
    if settings.public_url:
        return settings.public_url
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _nobody(_frame_id: str) -> None:
    """The simulated people of another process answer, not this one."""
