"""Bounds computed otherwise: by loops, and by linear programming."""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

from sklpos.certificates.bounds.layers import Affine


def crown_by_loops(weights, biases, low, high):
    """Lower bound of the one output, unit by unit, from the formulas of the paper.

    Every hidden unit's bounds are found in the same way. As in the package, they are
    intersected with those of intervals.
    """
    inputs = np.column_stack([low, high])
    hidden = []  # weights, biases and bounds of the layers that ReLUs follow
    for weight, bias in zip(weights, biases, strict=True):
        bounds = []
        for row, offset in zip(weight, bias, strict=True):
            ends = row[:, None] * inputs
            least = _backwards(row, offset, hidden, low, high)
            most = -_backwards(-row, -offset, hidden, low, high)
            least = max(least, offset + ends.min(axis=1).sum())
            bounds.append((least, min(most, offset + ends.max(axis=1).sum())))
        hidden.append((weight, bias, bounds))
        inputs = np.maximum(bounds, 0)
    return bounds[0][0]


def _backwards(row, offset, hidden, low, high):
    """Lower bound of one linear function of the last hidden units."""
    for weight, bias, bounds in reversed(hidden):
        slopes = np.zeros(len(row))
        for i, (least, most) in enumerate(bounds):
            if least >= 0:
                slopes[i] = 1.0
            elif most > 0 and row[i] >= 0:
                slopes[i] = float(most > -least)
            elif most > 0:
                slopes[i] = most / (most - least)
                offset -= row[i] * slopes[i] * least
        row = row * slopes
        offset += row @ bias
        row = row @ weight
    return row @ np.where(row > 0, low, high) + offset


def triangle_bound(network, low, high, hidden):
    """Minimum of the one output over the triangles of all ReLUs, by linprog."""
    columns, equal, less = list(zip(low, high, strict=True)), [], []
    now = list(range(len(low)))
    for number, layer in enumerate(network.layers):
        first = len(columns)
        if isinstance(layer, Affine):
            columns += [(None, None)] * len(layer.bias)
            for i, (row, bias) in enumerate(zip(layer.weight, layer.bias, strict=True)):
                pairs = dict(zip(now, row.tolist(), strict=True)) | {first + i: -1.0}
                equal.append((pairs, -bias.item()))
            now = list(range(first, len(columns)))
            continue
        for i, z in enumerate(now):
            low, high = (bound[0, i].item() for bound in hidden[number])
            y = first + i
            columns.append((0, None))
            less.append(({z: 1.0, y: -1.0}, 0.0))
            slope = (max(high, 0) - max(low, 0)) / (high - low)
            less.append(({y: 1.0, z: -slope}, max(low, 0) - slope * low))
        now = list(range(first, len(columns)))

    def matrix(rows):
        dense = np.zeros((len(rows), len(columns)))
        for k, (pairs, _) in enumerate(rows):
            dense[k, list(pairs)] = list(pairs.values())
        return dense, [value for _, value in rows]

    A_eq, b_eq = matrix(equal)
    A_ub, b_ub = matrix(less)
    objective = np.zeros(len(columns))
    objective[now] = 1
    return linprog(objective, A_ub, b_ub, A_eq, b_eq, bounds=columns).fun


def rounded(layers, x, unit):
    """Smallest and largest result of a chain if every operation is off by a unit.

    The layers are modules, or pairs of a matrix and an offset. Sums are added up term
    by term.
    """
    low, high = _outwards(x, x, unit)
    for layer in layers:
        if isinstance(layer, tuple):
            low, high = _rounded_sums(*layer, low, high, unit)
        elif isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.detach().double().numpy()
            weight = layer.weight.detach().double().numpy()
            low, high = _rounded_sums(weight, bias, low, high, unit)
        elif isinstance(layer, nn.BatchNorm1d):
            low, high = _rounded_norm(layer, low, high, unit)
        else:
            # Activations that rise, rounded twice at least: a slope and a product.
            low, high = (layer(torch.as_tensor(end)).numpy() for end in (low, high))
            low, high = _outwards(low, high, 2 * unit)
    return low, high


def _outwards(low, high, unit):
    return low - unit * np.abs(low), high + unit * np.abs(high)


def _rounded_sums(weight, offset, low, high, unit):
    lows, highs = [], []
    for i, row in enumerate(np.asarray(weight)):
        terms = _outwards(*np.sort([row * low, row * high], axis=0), unit)
        least, most = terms[0][0], terms[1][0]
        for a, b in list(zip(*terms, strict=True))[1:]:
            least, most = _outwards(least + a, most + b, unit)
        if offset is not None:
            least, most = _outwards(least + offset[i], most + offset[i], unit)
        lows.append(least)
        highs.append(most)
    return np.array(lows), np.array(highs)


def _rounded_norm(layer, low, high, unit):
    """``(x * scale) + (bias - mean * scale)``, with a positive scale."""
    mean, var, weight, bias = (
        values.detach().double().numpy()
        for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    scale = weight / np.sqrt(var + layer.eps)
    # A sum, a root, a quotient and a product.
    scale = _outwards(scale, scale, 4 * unit)
    moved = _outwards(*np.sort([mean * scale[0], mean * scale[1]], axis=0), unit)
    shift = _outwards(bias - moved[1], bias - moved[0], unit)
    ends = np.sort(
        [low * scale[0], low * scale[1], high * scale[0], high * scale[1]], 0
    )
    terms = _outwards(ends[0], ends[-1], unit)
    return _outwards(terms[0] + shift[0], terms[1] + shift[1], unit)
