"""What is compared: each function returns one that trains for an epoch.

All have the same data, net, batch size, dtype (float32) and Adam's learning rate. The
targets are standardised, so that the bound 0 is `Problem.bound`.
"""

import importlib
import warnings
from functools import partial

import torch
from skorch import NeuralNetRegressor
from torch import nn

from benchmarks.problem import LR
from sklpos import STRATEGIES

# -- loops by hand ----------------------------------------------------------------


def epochs(problem, step):
    """One shuffled pass over the rows for a `step` that takes X, y and row numbers."""
    X, y = torch.as_tensor(problem.X), torch.as_tensor(problem.scaled)
    generator = torch.Generator().manual_seed(0)

    def epoch():
        order = torch.randperm(len(X), generator=generator)
        parts = (part.split(problem.batch_size) for part in (X[order], y[order], order))
        for batch in zip(*parts, strict=True):
            step(*batch)

    return epoch


def bare(problem, term=None, fused=True, compiler=lambda module: module):
    """A plain loop; `term` adds a constraint to the loss."""
    module = compiler(problem.module())
    optimizer = torch.optim.Adam(module.parameters(), lr=LR, fused=fused)

    def step(X, y, index):
        y_pred = module(X)
        loss = nn.functional.mse_loss(y_pred, y)
        if term is not None:
            loss = loss + term(problem.bound - y_pred, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return epochs(problem, step)


def penalty_by_hand(violation, index):
    return torch.relu(violation).square().mean()


def augmented_lagrangian_by_hand(problem, c=2.0, dual_lr=0.1):
    multiplier = torch.zeros(problem.n_samples, problem.widths[-1])

    def term(violation, index):
        with torch.no_grad():
            moved = multiplier[index] + dual_lr * c * violation
            multiplier[index] = torch.relu(moved)
        own = multiplier[index]
        reach = torch.maximum(violation, -own / c)
        return (own * reach + c / 2 * reach**2).mean()

    return term


# -- other packages ---------------------------------------------------------------


def plain_skorch(problem):
    """With its defaults: a DataLoader, the callbacks."""
    net = NeuralNetRegressor(
        problem.module(),
        optimizer=torch.optim.Adam,
        lr=LR,
        batch_size=problem.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).initialize()
    return lambda: net.partial_fit(problem.X, problem.scaled, epochs=1)


def scikit_learn(problem, **params):
    model = problem.mlp(**params)
    y = problem.y if params else problem.scaled
    y = y.ravel() if y.shape[1] == 1 else y
    return lambda: model.partial_fit(problem.X, y)


def cooper_lagrangian(problem):
    """cooper-optim: augmented Lagrangian, one multiplier a row and output."""
    cooper = importlib.import_module("cooper")
    n_outputs = problem.widths[-1]

    class Positive(cooper.ConstrainedMinimizationProblem):
        def __init__(self):
            super().__init__()
            self.module = problem.module()
            self.rows = cooper.Constraint(
                cooper.ConstraintType.INEQUALITY,
                formulation_type=cooper.formulations.AugmentedLagrangian,
                multiplier=cooper.multipliers.IndexedMultiplier(
                    problem.n_samples * n_outputs
                ),
                penalty_coefficient=(
                    cooper.penalty_coefficients.DensePenaltyCoefficient(
                        torch.tensor(2.0)
                    )
                ),
            )

        def compute_cmp_state(self, X, y, index):
            y_pred = self.module(X)
            violation = (problem.bound - y_pred) / len(X)
            index = index[:, None] * n_outputs + torch.arange(n_outputs)
            state = cooper.ConstraintState(
                violation.flatten(), constraint_features=index.flatten()
            )
            loss = nn.functional.mse_loss(y_pred, y)
            return cooper.CMPState(loss, observed_constraints={self.rows: state})

    cmp = Positive()
    optimizer = cooper.optim.SimultaneousOptimizer(
        cmp=cmp,
        primal_optimizers=torch.optim.Adam(cmp.module.parameters(), lr=LR, fused=True),
        dual_optimizers=torch.optim.SGD(cmp.dual_parameters(), lr=0.1, maximize=True),
    )
    names = ("X", "y", "index")
    return epochs(
        problem,
        lambda *batch: optimizer.roll(
            compute_cmp_state_kwargs=dict(zip(names, batch, strict=True))
        ),
    )


def mdmm(problem):
    """It knows scalar constraints only: one a batch position, shared by its rows."""
    package, module = importlib.import_module("mdmm"), problem.module()
    batch = {}

    def reading(position):
        return lambda: batch["y_pred"][position].amin()

    constraints = package.MDMM(
        package.MinConstraintHard(reading(i), problem.bound.min())
        for i in range(problem.batch_size)
    )
    optimizer = constraints.make_optimizer(
        module.parameters(), optimizer=torch.optim.Adam, lr=LR
    )

    def step(X, y, index):
        batch["y_pred"] = module(X)
        loss = nn.functional.mse_loss(batch["y_pred"], y)
        optimizer.zero_grad()
        constraints(loss).value.backward()
        optimizer.step()

    return epochs(problem, step)


def humancompatible(problem):
    """Its augmented Lagrangian: one multiplier a batch position and output."""
    package = importlib.import_module("humancompatible.train.dual_optim")
    module = problem.module()
    size = problem.batch_size * problem.widths[-1]
    optimizer = torch.optim.Adam(module.parameters(), lr=LR, fused=True)
    dual = package.ALM(m=size, lr=0.1, penalty=2.0, is_ineq=True)

    def step(X, y, index):
        y_pred = module(X)
        violation = (problem.bound - y_pred).flatten() / len(X)
        violation = nn.functional.pad(violation, (0, size - len(violation)))
        loss = nn.functional.mse_loss(y_pred, y)
        lagrangian = dual.forward_update(loss, violation)
        optimizer.zero_grad()
        lagrangian.backward()
        optimizer.step()

    return epochs(problem, step)


# -- ours -------------------------------------------------------------------------


def ours(problem, strategy, **params):
    """The epochs of `fit`, without what comes before and after them."""
    model = problem.estimator(strategy=strategy, **params).fit(problem.X, problem.y)
    rows = model.net_.get_dataset(problem.X, torch.as_tensor(problem.scaled))
    return lambda: model.net_.partial_fit(rows, epochs=1)


PEERS = {
    "cooper-optim": ("cooper", cooper_lagrangian),
    "humancompatible-train": ("humancompatible.train", humancompatible),
}


def installed(module: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(module)
        except ImportError:
            return False
    return True


BY_HAND = {
    "bare loop": bare,
    "bare loop, Adam not fused": partial(bare, fused=None),
    "bare loop + penalty": partial(bare, term=penalty_by_hand),
    "bare loop + augmented Lagrangian": lambda problem: bare(
        problem, augmented_lagrangian_by_hand(problem)
    ),
    "skorch": plain_skorch,
    "MLPRegressor": scikit_learn,
}
OURS = {f"sklpos, {name}": partial(ours, strategy=name) for name in STRATEGIES}


def competitors(problem, only=None) -> dict:
    """Name to epoch function, of all or `only` some; says what is not installed."""
    makers = dict(BY_HAND)
    if problem.widths[-1] == 1:
        makers["MLPRegressor, poisson"] = partial(scikit_learn, loss="poisson")
    for name, (module, peer) in PEERS.items():
        if installed(module):
            makers[name] = peer
        elif only is None:
            print(f"left out, {module} is not installed: {name}")
    makers |= OURS
    return {n: make(problem) for n, make in makers.items() if not only or n in only}
