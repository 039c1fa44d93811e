"""The structure of a fleet, as people ask for it: near-duplicates, slices, coverage and the map, within a filter and against a task's labels."""

from service.structure.fleet_map import Colour, Lassoed, Places, colour, draw_map, lassoed, places
from service.structure.near_duplicates import (
    MOST_ON_REQUEST,
    FoundDuplicates,
    find_duplicates,
    kept_duplicates,
    likeness,
)
from service.structure.pairs import FoundPairs, duplicates_of_frame, pairs_of_fleet
from service.structure.scenes import SliceOfFleet, find_coverage, find_slices, labelled_mask, slice_codes
from service.structure.upkeep import keep_up, survey_fleet

__all__ = [
    "MOST_ON_REQUEST",
    "Colour",
    "FoundDuplicates",
    "FoundPairs",
    "Lassoed",
    "Places",
    "SliceOfFleet",
    "colour",
    "draw_map",
    "duplicates_of_frame",
    "find_coverage",
    "find_duplicates",
    "find_slices",
    "keep_up",
    "kept_duplicates",
    "labelled_mask",
    "lassoed",
    "likeness",
    "pairs_of_fleet",
    "places",
    "slice_codes",
    "survey_fleet",
]
