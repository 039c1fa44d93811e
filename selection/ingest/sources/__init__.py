"""Where images come from: folders, tar files, buckets, manifests and videos, each a stream of files."""

from selection.ingest.rejects import Reject
from selection.ingest.sources.files import SourceFile
from selection.ingest.sources.folders import Sources

__all__ = ["Reject", "SourceFile", "Sources"]
