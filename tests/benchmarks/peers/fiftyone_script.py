"""FiftyOne's side of the benchmark; runs in an environment that has FiftyOne and nothing of ours.

Usage: fiftyone_script.py STEP VECTORS.npy FRAMES.jsonl FOLDER
"""

import json
import sys
import time

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
from fiftyone import ViewField as F

NAME, BRAIN_KEY, K, REPEATS = "benchmark", "similarity", 50, 40
FIELDS = ("weather", "road", "speed_kph", "pedestrians", "drive")


def register(vectors_file, frames_file):
    with open(frames_file) as file:
        frames = [json.loads(line) for line in file]
    if fo.dataset_exists(NAME):
        fo.delete_dataset(NAME)
    began = time.perf_counter()
    dataset = fo.Dataset(NAME, persistent=True)
    samples = (
        fo.Sample(filepath=f"/fleet/{one['row']:08d}.jpg", row=one["row"], **{key: one[key] for key in FIELDS})
        for one in frames
    )
    dataset.add_samples(samples, num_samples=len(frames), progress=False)
    took = time.perf_counter() - began
    return {"register": len(frames) / took}, {"register": "paths and five attributes, no digests, no decoding"}


def store(vectors_file, frames_file):
    dataset, vectors = fo.load_dataset(NAME), np.load(vectors_file)
    if dataset.has_brain_run(BRAIN_KEY):
        dataset.delete_brain_run(BRAIN_KEY)
    began = time.perf_counter()
    fob.compute_similarity(dataset, embeddings=vectors, brain_key=BRAIN_KEY, progress=False)
    search(dataset, vectors[0])
    return {"store": time.perf_counter() - began}, {}


def cold_start(vectors_file, frames_file):
    query = np.load(vectors_file, mmap_mode="r")[0].copy()
    began = time.perf_counter()
    search(fo.load_dataset(NAME), query)
    return {"cold_start": time.perf_counter() - began}, {"cold_start": "first query, without importing the package"}


def nearest(vectors_file, frames_file):
    dataset, vectors = fo.load_dataset(NAME), np.load(vectors_file, mmap_mode="r")
    rows = np.random.default_rng(0).choice(len(vectors), size=REPEATS, replace=False)
    within = dataset.match({"road": "highway"})
    plain = times(lambda row: search(dataset, vectors[row].copy()), rows)
    filtered = times(lambda row: search(within, vectors[row].copy()), rows)
    figures = {
        "nearest.p50": np.percentile(plain, 50),
        "nearest.p95": np.percentile(plain, 95),
        "nearest.filter_p50": np.percentile(filtered, 50),
        "nearest.filter_p95": np.percentile(filtered, 95),
    }
    return figures, {"nearest.p50": "Python API, no HTTP"}


def facets(vectors_file, frames_file):
    dataset = fo.load_dataset(NAME)
    dataset.create_index("road")

    def count(_row):
        view = dataset.match(F("road") == "highway")
        view.count()
        for key in ("weather", "road", "pedestrians"):
            view.count_values(key)

    return {"facets": np.percentile(times(count, range(10)), 50)}, {"facets": "count and three facets, Python API"}


def duplicates(vectors_file, frames_file):
    dataset, vectors = fo.load_dataset(NAME), np.load(vectors_file)
    began = time.perf_counter()
    # Cosine similarity 0.985 as Euclidean distance of unit vectors.
    fob.compute_near_duplicates(dataset, embeddings=vectors, threshold=(2 - 2 * 0.985) ** 0.5, progress=False)
    return {"duplicates": time.perf_counter() - began}, {}


def diverse(vectors_file, frames_file):
    dataset, vectors = fo.load_dataset(NAME), np.load(vectors_file)
    began = time.perf_counter()
    fob.compute_uniqueness(dataset, embeddings=vectors, progress=False)
    dataset.sort_by("uniqueness", reverse=True).limit(1000).values("id")
    return {"diverse": time.perf_counter() - began}, {"diverse": "uniqueness: outliers, not mutually diverse"}


def search(view, query):
    found = view.sort_by_similarity(query, k=K, brain_key=BRAIN_KEY)
    return found.values("row")


def times(work, rows):
    for row in list(rows)[:3]:
        work(row)
    taken = []
    for row in rows:
        began = time.perf_counter()
        work(row)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


if __name__ == "__main__":
    step, vectors_path, frames_path, _folder = sys.argv[1:]
    made, said = globals()[step](vectors_path, frames_path)
    print(json.dumps({"figures": {key: float(value) for key, value in made.items()}, "notes": said}))
