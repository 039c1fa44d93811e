"""LightlyStudio's side of the benchmark; runs in an environment that has LightlyStudio and nothing of ours.

Usage: lightly_studio_script.py STEP VECTORS.npy FRAMES.jsonl FOLDER
It opens every file it registers, so each frame gets a small JPEG of its own name, all hard links to a few files.
"""

import json
import os
import re
import sys
import time
import uuid
from pathlib import Path

import lightly_studio as ls
import numpy as np
from lightly_studio.api.routes.api.validators import Paginated
from lightly_studio.core.image.image_dataset import _generate_embeddings_image as embed
from lightly_studio.database import db_manager
from lightly_studio.resolvers.image_resolver import get_all_by_collection_id as listing
from lightly_studio_serve.embedder import ImagePathEmbedder
from lightly_studio_serve.types import EmbeddingResult, EmbeddingSpaceSpec
from PIL import Image

NAME, K, REPEATS = "benchmark", 50, 20
FIELDS = ("weather", "road", "speed_kph", "pedestrians", "drive")


class Given(ImagePathEmbedder):
    """Hands out vectors that exist already, by the number in the file's name."""

    def __init__(self, vectors):
        self.vectors = vectors

    def embedding_space_spec(self):
        return EmbeddingSpaceSpec(space_key="benchmark/given", dimension=self.vectors.shape[1])

    def embed_images(self, paths):
        rows = [int(re.search(r"(\d{8})\.jpg$", path)[1]) for path in paths]
        return EmbeddingResult(embeddings=self.vectors[rows].astype(np.float32), kept_indices=list(range(len(rows))))


def register(vectors_file, frames_file, folder):
    with open(frames_file) as file:
        frames = [json.loads(line) for line in file]
    pictures = folder / "images"
    pictures.mkdir(exist_ok=True)
    for one in frames:
        path = pictures / f"{one['row']:08d}.jpg"
        source = folder / f"source-{one['row'] // 20_000}.jpg"  # A file has at most some ten thousand names.
        if not source.exists():
            Image.new("RGB", (64, 36), (one["row"] % 255, 90, 90)).save(source)
        if not path.exists():
            os.link(source, path)
    (folder / "studio.db").unlink(missing_ok=True)
    db_manager.connect(db_file=str(folder / "studio.db"))
    ls.register_default_embedder(
        Given(np.load(vectors_file, mmap_mode="r"))
    )  # Which space a dataset has is settled when it is made.
    began = time.perf_counter()
    dataset = ls.ImageDataset.create(NAME)
    dataset.add_images_from_path(str(pictures), embed=False)
    said = {f"{one['row']:08d}.jpg": {key: one[key] for key in FIELDS} for one in frames}
    dataset.update_metadata([(sample.sample_id, said[sample.file_name]) for sample in dataset])
    took = time.perf_counter() - began
    return {"register": len(frames) / took}, {"register": "opens every file's header, five attributes, no digests"}


def store(vectors_file, frames_file, folder):
    vectors = np.load(vectors_file)
    ls.register_default_embedder(Given(vectors))
    dataset = opened(folder)
    began = time.perf_counter()
    # Adding the files once more with `embed=True` would do nothing: it embeds images that are new in that call.
    embed(session=dataset.session, collection_id=dataset.collection_id, sample_ids=[one.sample_id for one in dataset])
    middle = len(vectors) // 2  # Not the first, which a listing without vectors would begin with too.
    found = ask(dataset, vectors[middle])[0]
    took = time.perf_counter() - began
    if found != f"{middle:08d}.jpg":
        raise SystemExit(f"the vectors were not stored: {found} is nearest to frame {middle}")
    return {"store": took}, {"store": "its embedding step with vectors handed out from an array"}


def cold_start(vectors_file, frames_file, folder):
    query = np.load(vectors_file, mmap_mode="r")[0].copy()
    began = time.perf_counter()
    ask(opened(folder), query)
    return {"cold_start": time.perf_counter() - began}, {"cold_start": "first query, without importing the package"}


def nearest(vectors_file, frames_file, folder):
    dataset, vectors = opened(folder), np.load(vectors_file, mmap_mode="r")
    rows = np.random.default_rng(0).choice(len(vectors), size=REPEATS, replace=False)
    plain = times(lambda row: ask(dataset, vectors[row].copy()), rows)
    filtered = times(lambda row: ask(dataset, vectors[row].copy(), within=on_highways()), rows)
    figures = {
        "nearest.p50": np.percentile(plain, 50),
        "nearest.p95": np.percentile(plain, 95),
        "nearest.filter_p50": np.percentile(filtered, 50),
        "nearest.filter_p95": np.percentile(filtered, 95),
    }
    return figures, {"nearest.p50": "the query behind its HTTP route, no HTTP"}


def facets(vectors_file, frames_file, folder):
    dataset = opened(folder)
    taken = times(lambda _row: ask(dataset, None, within=on_highways()), range(10))
    return {"facets": np.percentile(taken, 50)}, {"facets": "first page and count, no facets"}


def duplicates(vectors_file, frames_file, folder):
    dataset = opened(folder)
    began = time.perf_counter()
    dataset.query().sampling().deduplicate(1000, f"kept-{uuid.uuid4().hex[:8]}", (2 - 2 * 0.985) ** 0.5)
    return {"duplicates": time.perf_counter() - began}, {"duplicates": "stops at 1,000 kept: not the whole job"}


def diverse(vectors_file, frames_file, folder):
    dataset = opened(folder)
    began = time.perf_counter()
    dataset.query().sampling().diverse(1000, f"diverse-{uuid.uuid4().hex[:8]}")
    return {"diverse": time.perf_counter() - began}, {}


def opened(folder):
    db_manager.connect(db_file=str(folder / "studio.db"))
    return ls.ImageDataset.load(NAME)


def on_highways():
    from lightly_studio.resolvers.image_filter import ImageFilter
    from lightly_studio.resolvers.metadata_resolver.metadata_filter import MetadataFilter
    from lightly_studio.resolvers.sample_resolver.sample_filter import SampleFilter

    return ImageFilter(
        sample_filter=SampleFilter(metadata_filters=[MetadataFilter(key="road", op="==", value="highway")])
    )


def ask(dataset, query, within=None):
    with db_manager.session() as session:
        work = getattr(listing, "get_all_by_collection_id", listing)
        page = work(
            session=session,
            collection_id=dataset.collection_id,
            pagination=Paginated(offset=0, limit=K),
            filters=within,
            text_embedding=None if query is None else query.tolist(),
        )
        return [one.file_name for one in page.samples]  # Read while the session is open, as the route does.


def times(work, rows):
    for row in list(rows)[:2]:
        work(row)
    taken = []
    for row in rows:
        began = time.perf_counter()
        work(row)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


if __name__ == "__main__":
    step, vectors_path, frames_path, own = sys.argv[1:]
    made, said = globals()[step](vectors_path, frames_path, Path(own))
    print(json.dumps({"figures": {key: float(value) for key, value in made.items()}, "notes": said}))
