"""Tracks: where a vehicle was, and how fast, second by second; joined to its frames by time."""
