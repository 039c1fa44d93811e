"""What the Model Line asks of whatever runs its jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NewType, Protocol

from infra.errors import InvalidInput
from training.contract import Metrics

JobRef = NewType("JobRef", str)
JobState = Literal["running", "completed", "failed", "stopped", "interrupted"]

_JOB_NAME = re.compile(r"[a-z0-9](-*[a-z0-9]){0,62}")


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One training job.

    Attributes:
        job_name: Unique for ever; at most 63 lower-case letters, digits and single hyphens between them.
        hyperparameters: `Hyperparameters.to_strings()`.
        channels: Channel name to an object key (the channel then holds that one file) or a key prefix (all objects
            under it; of the frames channel only those that the manifest names need be there).
        output_prefix: Key prefix; results go to `<output_prefix>/<job_name>/output/`.
        environment: Further variables for the job.
    """

    job_name: str
    hyperparameters: Mapping[str, str]
    channels: Mapping[str, str]
    output_prefix: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what SageMaker would refuse too.

        Raises:
            InvalidInput: The name is not a job name, or a hyperparameter is not a string.
        """
        if not _JOB_NAME.fullmatch(self.job_name):
            raise InvalidInput(
                f"{self.job_name!r} is no job name; use at most 63 lower-case letters, digits and hyphens between them",
                job_name=self.job_name,
            )
        for key, value in self.hyperparameters.items():
            if not isinstance(value, str):
                raise InvalidInput(
                    f"hyperparameter {key!r} of job {self.job_name} is not a string", job_name=self.job_name
                )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of time in which the job ran.

    Attributes:
        ended_at: When it was last seen running, if nobody saw it end; None while it runs.
        exit_code: Negative for a signal; None while it runs or when nobody saw it end.
    """

    number: int
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job as the executor sees it now.

    Attributes:
        state: `interrupted` means that it died without an outcome: `submit` the same spec again and it goes on from
            its checkpoints.
        failure_reason: One line; set when failed.
        billable_s: Seconds of running time, all attempts together.
        model_key: Object key of `model.tar.gz`; set with `model_digest` (its SHA-256), `output_key` and `metrics`
            when completed.
    """

    job_name: str
    state: JobState
    failure_reason: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    billable_s: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    model_key: str | None = None
    model_digest: str | None = None
    output_key: str | None = None
    metrics: Metrics | None = None


class Executor(Protocol):
    """Runs training jobs. Every method may raise `infra.errors.BackendUnavailable`: the caller waits and asks again."""

    @property
    def name(self) -> str:
        """Which executor this is, kept in the workflow record. Only one of the same name knows the workflow's job."""
        ...

    def submit(self, spec: JobSpec) -> JobRef:
        """Starts the job, or finds it when it was started before; resumes an interrupted one.

        Raises:
            Conflict: A job of this name exists with another spec.
        """
        ...

    def status(self, ref: JobRef) -> JobStatus:
        """How the job stands; when it has completed, its results are in the object store.

        Raises:
            NotFound: No such job.
        """
        ...

    def stop(self, ref: JobRef) -> None:
        """Asks the job to stop: SIGTERM, and SIGKILL when the grace is over. Returns at once. Idempotent; no effect
        on an ended job.
        """
        ...

    def logs(self, ref: JobRef) -> Iterator[str]:
        """Lines the job wrote so far, over all attempts, without line ends."""
        ...
