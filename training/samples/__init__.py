"""Samples: pictures with their labels and captions, made in tensors on the device that trains.

`archive` holds the art and the tables, `maker` makes samples of them. Knows nothing of networks.
"""
