"""Phrasings of facts, and captions made of them.

A caption is a conjunction of facts, so its truth for a frame follows from the frame's facts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.demo.small_encoder_training.facts import FACTS, FALSE, INDEX, TRUE, UNKNOWN

# Nouns: what can be seen. Each is said in several ways.
_NOUNS: dict[str, tuple[str, ...]] = {
    "car": ("a car", "cars", "a parked car", "cars on the road", "passenger cars", "an automobile"),
    "truck": ("a truck", "trucks", "a lorry", "a heavy goods vehicle", "a truck ahead", "a delivery truck",
              "a box truck"),
    "bus": ("a bus", "buses", "a city bus", "public transport", "a coach"),
    "pedestrian": ("a pedestrian", "pedestrians", "people walking", "a person walking", "a person", "people on foot",
                   "a walking man or woman", "pedestrians on the sidewalk", "people", "a man walking", "a woman"),
    "cyclist": ("a cyclist", "cyclists", "a person on a bicycle", "a bicycle", "a bike", "a bicyclist", "bicyclists",
                "someone riding a bike", "a bike rider", "people cycling"),
    "traffic_sign": ("a traffic sign", "traffic signs", "a road sign", "a street sign", "a sign", "a sign symbol",
                     "sign symbols", "a speed limit sign", "a sign post"),
    "traffic_light": ("a traffic light", "traffic lights", "a traffic signal", "signals at an intersection",
                      "a stop light", "a red light", "a green light"),
    "crossing": ("a crossing", "a zebra crossing", "a crosswalk", "a pedestrian crossing", "white stripes of a crossing",
                 "crossings"),
    "vehicle": ("a vehicle", "vehicles", "vehicles on the road", "traffic", "motor vehicles"),
    "someone": ("vulnerable road users", "someone on foot or on a bike", "road users who are not in a car"),
    "many_cars": ("many cars", "a lot of cars", "many vehicles", "a row of cars"),
    "several_pedestrians": ("several pedestrians", "a group of people", "a crowd of people", "many people",
                            "many pedestrians"),
    "close_vehicle": ("a vehicle close to the camera", "a large vehicle right ahead", "a vehicle nearby"),
    "close_pedestrian": ("a pedestrian close to the camera", "a person right in front", "a pedestrian nearby"),
    "close_cyclist": ("a cyclist close to the camera", "a cyclist right in front", "a cyclist nearby"),
    "guard_rail": ("a guard rail", "a crash barrier", "a barrier beside the road", "a fence along the road", "a fence"),
    "buildings": ("buildings", "houses", "buildings along the street", "built up area"),
}  # fmt: skip
_SETTINGS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "in daylight", "during the day", "at daytime", "in bright daylight", "at noon"),
    "dusk": ("at dusk", "at sunset", "in the evening", "in the evening twilight", "at nightfall"),
    "dawn": ("at dawn", "at sunrise", "early in the morning", "in the morning light"),
    "night": ("at night", "in the dark", "by night", "during the night", "at night with street lights", "in darkness"),
    "twilight": ("in twilight", "in low sun", "at twilight", "in the half light"),
    "dark": ("in low light", "with lights on", "in poor light"),
    "clear": ("in clear weather", "under a blue sky", "in sunshine", "on a sunny day", "with a clear sky"),
    "overcast": ("under an overcast sky", "in cloudy weather", "under grey clouds", "on a cloudy day"),
    "rain": ("in the rain", "in rain", "on a wet road", "in rainy weather", "on a wet road in the rain",
             "with rain drops on the lens", "while it is raining"),
    "fog": ("in fog", "in the fog", "in thick fog", "in foggy weather", "in mist", "with poor visibility"),
    "snow": ("in snow", "in the snow", "in snowfall", "on a snowy road", "in winter", "on a snow covered road"),
    "city": ("in the city", "in a city street", "downtown", "in town", "in an urban street", "at a city intersection"),
    "residential": ("in a residential street", "in a residential area", "in the suburbs", "in a neighbourhood"),
    "highway": ("on the highway", "on a motorway", "on a freeway", "on a highway", "on a multi lane road"),
    "rural": ("on a country road", "on a rural road", "in the countryside", "between fields", "on a narrow rural road"),
    "dense_traffic": ("in dense traffic", "in heavy traffic", "in a traffic jam", "in a queue of vehicles"),
    "light_traffic": ("in light traffic", "with little traffic", "on an empty road", "on a nearly empty road"),
}  # fmt: skip
_ABSENT: dict[str, tuple[str, ...]] = {
    "pedestrian": ("no pedestrians", "nobody on foot", "without pedestrians"),
    "vehicle": ("no vehicles", "an empty road", "no traffic", "without any cars"),
    "cyclist": ("no cyclists", "without cyclists"),
}
_ALONE: dict[str, tuple[str, ...]] = {
    "night": ("night", "night time", "a night scene", "a dark street", "night driving"),
    "day": ("day", "daytime", "a day scene", "daylight"),
    "dusk": ("dusk", "sunset", "evening", "evening sky"),
    "dawn": ("dawn", "sunrise", "morning"),
    "rain": ("rain", "rainy", "wet road", "a rainy street", "raining", "wet road in the rain"),
    "fog": ("fog", "foggy", "mist", "a foggy road", "haze"),
    "snow": ("snow", "snowy", "a snow covered road", "winter", "snow on the road"),
    "clear": ("clear", "sunny", "blue sky", "clear weather"),
    "overcast": ("overcast", "cloudy", "grey sky", "clouds"),
    "highway": ("highway", "motorway", "freeway", "highway driving"),
    "city": ("city", "city street", "urban street", "downtown"),
    "residential": ("residential street", "suburb", "residential", "a street with houses"),
    "rural": ("country road", "rural road", "rural", "countryside"),
    "pedestrian": ("pedestrian", "pedestrians", "person", "people", "walking people"),
    "cyclist": ("cyclist", "bicycle", "bicyclist", "bike", "cyclists"),
    "truck": ("truck", "trucks", "lorry"),
    "bus": ("bus", "buses"),
    "car": ("car", "cars"),
    "traffic_sign": ("traffic sign", "sign", "sign symbol", "road sign", "signsymbol"),
    "traffic_light": ("traffic light", "traffic lights", "traffic signal"),
    "crossing": ("crossing", "crosswalk", "zebra crossing"),
    "guard_rail": ("fence", "guard rail", "barrier"),
    "light_traffic": ("empty road", "light traffic", "an empty street"),
    "dense_traffic": ("dense traffic", "traffic jam", "heavy traffic", "busy road"),
}
_TOGETHER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("crossing", "pedestrian"): ("a pedestrian crossing with people", "crossing with pedestrians",
                                 "pedestrians at a crossing", "people crossing the street"),
    ("night", "crossing", "pedestrian"): ("night crossing with pedestrians", "pedestrians crossing at night"),
    ("night", "crossing"): ("night crossing", "a crossing at night"),
    ("night", "rain"): ("a rainy night", "wet street at night", "night rain", "lights reflected on a wet road"),
    ("night", "rain", "cyclist"): ("cyclist at night in the rain", "a cyclist on a rainy night"),
    ("night", "pedestrian"): ("pedestrian at night", "a pedestrian crossing the road at night"),
    ("day", "clear"): ("a sunny day", "clear day"),
    ("crossing", "traffic_light"): ("an intersection with traffic lights", "a signalised crossing"),
    ("snow", "night"): ("a snowy night",),
    ("fog", "pedestrian"): ("pedestrian in fog", "people in the mist"),
    ("truck", "highway"): ("truck on the highway", "trucks on a motorway"),
    ("dusk", "truck"): ("truck at dusk",),
}  # fmt: skip
_OBJECTS = ("truck", "bus", "pedestrian", "cyclist", "traffic_sign", "traffic_light", "crossing")
_FRAMES = (
    "{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "a driving scene with {}", "there is {}",
    "a dashcam photo of {}", "a road with {}", "a street with {}", "{} ahead", "a camera frame showing {}",
)  # fmt: skip
_SETTING_FRAMES = (
    "a road {}",
    "a street {}",
    "driving {}",
    "a photo taken {}",
    "{}",
    "a driving scene {}",
    "traffic {}",
)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A text and the facts it claims: positions in FACTS with the claimed value."""

    text: str
    claims: tuple[tuple[int, int], ...]


def sample_captions(rng: np.random.Generator, *, count: int) -> list[Caption]:
    """Draws captions: about half make one claim, the rest two or three."""
    return [_sample(rng) for _ in range(count)]


def truth(captions: list[Caption], facts: NDArray[np.int8]) -> NDArray[np.int8]:
    """Whether each caption holds for each frame.

    Args:
        captions: C captions.
        facts: Shape (N, len(FACTS)).
    Returns:
        Shape (N, C), TRUE, FALSE or UNKNOWN. One false claim makes a caption false, whatever is unknown about the rest.
    """
    result = np.full((len(facts), len(captions)), TRUE, dtype=np.int8)
    for column, caption in enumerate(captions):
        positions = [position for position, _ in caption.claims]
        wanted = np.asarray([value for _, value in caption.claims], dtype=np.int8)
        known = facts[:, positions]
        wrong = ((known != UNKNOWN) & (known != wanted)).any(axis=1)
        result[(known == UNKNOWN).any(axis=1), column] = UNKNOWN
        result[wrong, column] = FALSE
    return result


def every_text() -> list[str]:
    """All phrases and frames, to know which words the text tower learns."""
    texts = [frame.replace("{}", " ") for frame in (*_FRAMES, *_SETTING_FRAMES)]
    for table in (_NOUNS, _SETTINGS, _ABSENT, _ALONE):
        for phrases in table.values():
            texts.extend(phrases)
    for phrases in _TOGETHER.values():
        texts.extend(phrases)
    return [*texts, "and with , ."]


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _sample(rng: np.random.Generator) -> Caption:
    kind = rng.random()
    if kind < 0.24:
        # Objects are harder than hour and weather, so they are asked for more often.
        name = _pick(rng, _OBJECTS if rng.random() < 0.65 else tuple(_ALONE))
        return _caption(_pick(rng, _ALONE[name]), name)
    if kind < 0.52:
        name = _pick(rng, _OBJECTS if rng.random() < 0.5 else tuple(_NOUNS))
        return _caption(_pick(rng, _FRAMES).format(_pick(rng, _NOUNS[name])), name)
    if kind < 0.6:
        name = _pick(rng, tuple(_SETTINGS))
        return _caption(_pick(rng, _SETTING_FRAMES).format(_pick(rng, _SETTINGS[name])), name)
    if kind < 0.65:
        name = _pick(rng, tuple(_ABSENT))
        return Caption(text=_pick(rng, _ABSENT[name]), claims=((INDEX[name], FALSE),))
    if kind < 0.73:
        names = tuple(_TOGETHER)[int(rng.integers(len(_TOGETHER)))]
        return _caption(_pick(rng, _TOGETHER[names]), *names)
    noun, setting = _pick(rng, tuple(_NOUNS)), _pick(rng, tuple(_SETTINGS))
    text = f"{_pick(rng, _NOUNS[noun])} {_pick(rng, _SETTINGS[setting])}"
    if kind < 0.9:
        return _caption(_pick(rng, _FRAMES).format(text), noun, setting)
    second = _pick(rng, tuple(_NOUNS))
    joined = f"{_pick(rng, _NOUNS[second])} {_pick(rng, ('and', 'with'))} {text}"
    return _caption(joined, second, noun, setting)


def _caption(text: str, *names: str) -> Caption:
    assert all(name in FACTS for name in names)
    return Caption(text=text, claims=tuple((INDEX[name], TRUE) for name in dict.fromkeys(names)))
