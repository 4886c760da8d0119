"""Bounds of ReLU networks computed otherwise: by loops, and by linear programming."""

import numpy as np
from scipy.optimize import linprog

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
