"""The vector index: nearest frames by cosine similarity, from an encoder's vector shards."""

from selection.embedding.index.vector_index import IndexStatus, VectorIndex, built_status

__all__ = ["IndexStatus", "VectorIndex", "built_status"]
