"""Stored states with one thing changed, by a stranger or by accident."""

import numpy as np

from sklpos.training.state_digest import state_digest

VALUES = [
    None, True, 3, -1, 0, 10**30, 0.5, np.nan, np.inf, "x", "", b"x", [], {}, (), [1],
    {"a": 1}, np.array([1.0, np.nan]), np.zeros(0), np.zeros((2, 3, 4)),
    "sklpos.nets.modules.MLP", "torch.nn.modules.linear.Linear",
]  # fmt: skip
NAMES = ["extra", "forward", "predict", "__class__", 7, "__sklpos__", "weight"]


def places(tree, place=(), seen=None):
    """Yield the keys that lead to each node, once for each container."""
    seen = set() if seen is None else seen
    yield place
    if isinstance(tree, (dict, list, tuple)) and id(tree) not in seen:
        seen.add(id(tree))
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from places(value, (*place, key), seen)


def at(tree, place):
    for key in place:
        tree = tree[key]
    return tree


def changed(tree, place, new, *, delete=False):
    """Copy of a tree with another node, or without it."""
    if not place:
        return new
    key, *rest = place
    items = dict(tree) if isinstance(tree, dict) else dict(enumerate(tree))
    if rest or not delete:
        items[key] = changed(items[key], rest, new, delete=delete)
    else:
        del items[key]
    return items if isinstance(tree, dict) else type(tree)(items.values())


def other_arrays(array):
    """The array with other shapes, dtypes and numbers."""
    flat = array.reshape(-1)
    yield from (
        flat,
        flat[:-1],
        array[None],
        array.T.copy(),
        np.concatenate([flat] * 2),
    )
    yield from (array.astype(kind) for kind in (bool, complex, str, object, np.float32))
    if array.dtype.kind == "f":
        finite = np.nan_to_num(array, posinf=9, neginf=-9)
        yield from (finite.astype(np.int64), np.full_like(array, np.nan))
        yield from (np.full_like(array, np.inf), np.full_like(array, 1e30), -array)


def damage(state, rng):
    """Change one node of a state at random; the change is described, too."""
    everywhere = list(places(state))
    place = rng.choice(everywhere)
    node, draw = at(state, place), rng.random()
    if isinstance(node, np.ndarray) and draw < 0.6:
        new = rng.choice(list(other_arrays(node)))
    elif draw < 0.15 and place:
        return changed(state, place, None, delete=True), (place, "deleted")
    elif draw < 0.25 and isinstance(node, dict):
        new = {**node, rng.choice(NAMES): rng.choice(VALUES)}
    elif draw < 0.5:
        new = at(state, rng.choice(everywhere))
    else:
        new = rng.choice(VALUES)
    return changed(state, place, new), (place, type(node), new)


def sealed(state):
    """The state with the digest that a stranger would compute for it."""
    if not isinstance(state, dict) or not isinstance(state.get("vars"), dict):
        return state
    return {**state, "digest": state_digest(state["vars"])}
