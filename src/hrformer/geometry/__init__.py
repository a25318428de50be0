"""Coordinates, boxes, crops, flips, heatmaps and tiles: numpy and torch only, no picture library.

Conventions everywhere in this package:

* points are (x, y) in pixels, and integer coordinates are pixel *centres* (OpenCV's convention);
* picture and box sizes of the outside world are (width, height); array shapes are (height, width);
* boxes are (x, y, width, height).
"""
