"""What filter columns are made of: texts by code, numbers, bins, distances, and the copy of it all on this machine's disk."""
