"""The vector index: nearest frames by cosine similarity, from an encoder's vector shards."""

from selection.embedding.index.status import IndexStatus, built_status
from selection.embedding.index.vector_index import VectorIndex

__all__ = ["IndexStatus", "VectorIndex", "built_status"]
