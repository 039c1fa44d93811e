"""A simulated camera fleet: labelled, synthetic driving scenes for demonstrations and tests.

Nothing here is a recording. Streets, vehicles and people are drawn with numpy and Pillow from a seed: hour, weather,
road, traffic, cameras and drives vary, objects occlude each other, and the picture passes through a modelled sensor.
It stands in for a fleet so that the demo needs no download; figures obtained on it say nothing about real roads.
"""

from service.demo.simulated_fleet.generator import CLASSES, generate

__all__ = ["CLASSES", "generate"]
