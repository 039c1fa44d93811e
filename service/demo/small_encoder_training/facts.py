"""What is known to be true, false or unknown about a training frame.

Captions are built from these facts, so for every pair of image and caption it is known whether the caption holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRUE, FALSE, UNKNOWN = 1, 0, -1

TIMES = ("day", "dusk", "dawn", "night")
WEATHERS = ("clear", "overcast", "rain", "fog", "snow")
SCENES = ("city", "residential", "highway", "rural")
CLASSES = ("car", "truck", "bus", "pedestrian", "cyclist", "traffic_sign", "traffic_light", "crossing")
DERIVED = (
    "twilight", "dark", "vehicle", "someone", "many_cars", "several_pedestrians", "close_vehicle", "close_pedestrian",
    "close_cyclist", "guard_rail", "buildings", "dense_traffic", "light_traffic",
)  # fmt: skip
FACTS = (*TIMES, *WEATHERS, *SCENES, *CLASSES, *DERIVED)
INDEX = {name: position for position, name in enumerate(FACTS)}

# What the classes of other sources say in our words. A class missing here tells nothing.
_CARLA = {"vehicle": "vehicle", "bike": "cyclist", "traffic_light": "traffic_light", "traffic_sign": "traffic_sign"}


def facts_of(line: dict[str, Any], *, height_px: int | None = None) -> NDArray[np.int8]:
    """Three-valued facts of one metadata line, shape (len(FACTS),), values TRUE, FALSE or UNKNOWN.

    A value of `timeofday`, `weather` or `scene` that is ours excludes the other values of its group. Objects are only
    taken as absent where the source labels them exhaustively: in simulated frames and, for its classes, in CARLA.
    """
    facts = np.full(len(FACTS), UNKNOWN, dtype=np.int8)
    attributes = line.get("attributes", {})
    for key, group in (("timeofday", TIMES), ("weather", WEATHERS), ("scene", SCENES)):
        _choose(facts, group, attributes.get(key))
    if attributes.get("scene") == "campus road":
        _set(facts, ("city", "highway", "rural"), FALSE)
    if attributes.get("timeofday") == "day":
        _set(facts, ("snow", "fog", "rain"), FALSE if facts[INDEX["snow"]] == UNKNOWN else facts[INDEX["snow"]])
        _choose(facts, WEATHERS, attributes.get("weather"))
    if "drive" in line and attributes.get("synthetic"):
        _objects(facts, line, height_px=height_px or 270)
    elif attributes.get("synthetic"):
        _carla(facts, line)
    for name in line.get("seen", ()):
        facts[INDEX[name]] = TRUE
    for name in line.get("not_seen", ()):
        facts[INDEX[name]] = FALSE
    complete(facts)
    return facts


def complete(facts: NDArray[np.int8]) -> None:
    """Fills in, in place, what follows from the rest."""
    value = {name: int(facts[INDEX[name]]) for name in FACTS}
    facts[INDEX["twilight"]] = _any(value["dusk"], value["dawn"])
    facts[INDEX["dark"]] = _any(value["dusk"], value["dawn"], value["night"]) if value["night"] != TRUE else TRUE
    if value["vehicle"] == UNKNOWN:
        facts[INDEX["vehicle"]] = _any(value["car"], value["truck"], value["bus"])
    elif value["vehicle"] == FALSE:
        _set(facts, ("car", "truck", "bus", "many_cars", "close_vehicle", "dense_traffic"), FALSE)
    facts[INDEX["someone"]] = _any(value["pedestrian"], value["cyclist"])
    if value["pedestrian"] == FALSE:
        _set(facts, ("several_pedestrians", "close_pedestrian"), FALSE)
    if value["cyclist"] == FALSE:
        _set(facts, ("close_cyclist",), FALSE)
    if value["highway"] == TRUE:
        _set(facts, ("guard_rail",), TRUE)
        _set(facts, ("crossing",), FALSE)
    elif value["city"] == TRUE or value["residential"] == TRUE:
        _set(facts, ("guard_rail",), FALSE)
        _set(facts, ("buildings",), TRUE)


def _choose(facts: NDArray[np.int8], group: tuple[str, ...], value: object) -> None:
    if value in group:
        _set(facts, group, FALSE)
        facts[INDEX[str(value)]] = TRUE


def _set(facts: NDArray[np.int8], names: tuple[str, ...], value: int) -> None:
    for name in names:
        facts[INDEX[name]] = value


def _any(*values: int) -> int:
    if TRUE in values:
        return TRUE
    return UNKNOWN if UNKNOWN in values else FALSE


def _objects(facts: NDArray[np.int8], line: dict[str, Any], *, height_px: int) -> None:
    boxes = [(entry["label"], entry["bbox_xyxy_px"]) for entry in line["objects"]]
    heights: dict[str, list[float]] = {name: [] for name in CLASSES}
    for label, box in boxes:
        heights[label].append((box[3] - box[1]) / height_px)
    for name in CLASSES:
        facts[INDEX[name]] = TRUE if heights[name] else FALSE
    vehicles = heights["car"] + heights["truck"] + heights["bus"]
    facts[INDEX["many_cars"]] = len(vehicles) >= 6
    facts[INDEX["several_pedestrians"]] = len(heights["pedestrian"]) >= 3
    facts[INDEX["close_vehicle"]] = max(vehicles, default=0.0) > 0.28
    facts[INDEX["close_pedestrian"]] = max(heights["pedestrian"], default=0.0) > 0.2
    facts[INDEX["close_cyclist"]] = max(heights["cyclist"], default=0.0) > 0.2
    traffic = line["attributes"].get("traffic")
    facts[INDEX["dense_traffic"]] = traffic == "dense" and len(vehicles) >= 4
    facts[INDEX["light_traffic"]] = len(vehicles) <= 2
    facts[INDEX["guard_rail"]] = facts[INDEX["highway"]]
    facts[INDEX["buildings"]] = facts[INDEX["city"]] == TRUE or facts[INDEX["residential"]] == TRUE


def _carla(facts: NDArray[np.int8], line: dict[str, Any]) -> None:
    present = set(line.get("classes", ()))
    for theirs, ours in _CARLA.items():
        facts[INDEX[ours]] = TRUE if theirs in present else FALSE
    if "motobike" in present and facts[INDEX["cyclist"]] == FALSE:
        facts[INDEX["cyclist"]] = UNKNOWN
