"""Signed images for annotators: no token, but an address that only we can make and that expires. Not under /api/v1."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import Response

from infra import signing
from selection.fleet import frames
from service.api.frames import image_response
from service.api.line import OneLine

router = APIRouter(prefix="/images", tags=["images"])

# The labelling tool's page draws the image on a canvas and reads it back, which a browser allows across origins only with this.
_CROSS_ORIGIN = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}


@router.get("/{frame_id}", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def read_signed_image(frame_id: str, expires: int, signature: str, line: OneLine) -> Response:
    """The original image behind a signed address."""
    key = signing.secret(line.platform.database)
    signing.verify(key, f"/images/{frame_id}", expires_at=expires, signature=signature, now=time.time())
    frame = frames.get(line.platform.database, frame_id)
    remaining_s = max(0, expires - int(time.time()))
    headers = _CROSS_ORIGIN | {"cache-control": f"private, max-age={min(remaining_s, 86400)}"}
    return image_response(line.platform, frame, etag=f'"{frame_id}"', headers=headers)
