"""Every setting of MLPL, read once at the entry point and handed down as an argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from infra.errors import InvalidInput

ENV_PREFIX = "MLPL_"


def _absolute(path: Path) -> Path:
    # Made absolute when read, so that a later change of directory (ours or a child's) does not move the home.
    return path.expanduser().absolute()


def _object_store(value: str | None) -> str | None:
    if value is not None and "://" in value and not value.startswith("s3://"):
        raise ValueError("must be a directory or s3://bucket/prefix")
    if value is not None and value.startswith("s3://") and not value.removeprefix("s3://").strip("/"):
        raise ValueError("names no bucket; write s3://bucket/prefix")
    return value


def _without_trailing_slash(value: str | None) -> str | None:
    if value is not None and not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/") if value else value


HttpUrl = Annotated[str, AfterValidator(_without_trailing_slash)]


class Settings(BaseModel):
    """Where MLPL runs and what it runs on.

    What is not given to the constructor comes from the environment variable `MLPL_<FIELD>` (an empty one counts as
    unset), then from the default. The reading is done here in one line, as pydantic-settings takes longer to import
    than all of pydantic, on every command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        default=Path(".mlpl"), description="Directory for everything MLPL keeps on this machine."
    )
    mongodb_uri: SecretStr | None = Field(
        default=None,
        description="An existing MongoDB or Amazon DocumentDB 5.0; unset: a mongod embedded under the home.",
    )
    database: str = Field(default="mlpl", pattern=r"^[A-Za-z0-9_-]{1,38}$", description="Name of the database.")
    object_store: Annotated[str | None, AfterValidator(_object_store)] = Field(
        default=None,
        description="Where files live: a directory or s3://bucket/prefix; unset: `objects` under the home.",
    )
    s3_endpoint_url: HttpUrl | None = Field(default=None, description="S3 endpoint, for stores other than Amazon's.")
    s3_region: str | None = Field(default=None, description="Region of the bucket; unset: the AWS configuration's.")
    encoder: str = Field(
        default="ViT-B-32/laion2b_s34b_b79k",
        min_length=1,
        description="Image-text encoder: architecture/weights of open_clip, a checkpoint directory or s3:// prefix, or `small`.",
    )
    device: str = Field(
        default="auto", description="Where models run: auto, cpu, cuda or cuda:N.", pattern=r"^(auto|cpu|cuda(:\d+)?)$"
    )
    max_image_pixels: int = Field(
        default=200_000_000, gt=0, description="Larger images are rejected at ingest (width x height)."
    )
    label_studio_url: HttpUrl | None = Field(
        default=None, description="An existing Label Studio; unset: the one started under the home."
    )
    label_studio_token: SecretStr | None = Field(default=None, description="Access token for that Label Studio.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address `mlpl serve` binds to.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port `mlpl serve` binds to; 0 picks a free one.")
    public_url: HttpUrl | None = Field(
        default=None, description="How annotators' browsers reach this server; unset: from host and port."
    )
    access_token: SecretStr | None = Field(
        default=None, description="Token callers must present; required when host is not loopback."
    )
    image_url_lifetime_s: int = Field(
        default=30 * 86400, gt=0, description="How long a signed image URL in a labelling task works."
    )
    poll_interval_s: float = Field(default=5.0, gt=0, description="How often the reconcilers look for new work.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="Log lines as JSON or columns; auto: columns on a terminal."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: Any) -> Any:
        found = {name: os.environ.get(f"{ENV_PREFIX}{name.upper()}") for name in cls.model_fields}
        return {name: value for name, value in found.items() if value} | dict(given)

    def as_environment(self) -> dict[str, str]:
        """These settings as environment variables, secrets in clear, for a process of ours started from this one."""
        environment: dict[str, str] = {}
        for name in type(self).model_fields:
            value: Any = getattr(self, name)
            if value is not None:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                environment[f"{ENV_PREFIX}{name.upper()}"] = plain
        return environment


def load(**overrides: Any) -> Settings:
    """Reads the environment; `overrides` (for example from command-line options) win, and those that are None are left
    out.

    Raises:
        InvalidInput: A value cannot be used; the message names the variable, never the value (it may be a secret).
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        variable = f"{ENV_PREFIX}{str(first['loc'][0]).upper()}" if first["loc"] else "MLPL_*"
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidInput(f"{variable} cannot be used: {reason}", setting=variable) from None
