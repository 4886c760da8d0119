"""cooper-optim with one multiplier a row, on the linear models of `benchmarks.convex`.

Its sums become the means of this project: the violation that moves the weights is
divided by the size of the batch, the one that moves the multipliers is not, and a
penalty coefficient is ``c`` times the size of the batch.
"""

import cooper
import torch
from torch import nn

from benchmarks.convex import Progress, Task
from sklpos.training.loaders import BatchLoader
from sklpos.training.rows import RowDataset


class Positive(cooper.ConstrainedMinimizationProblem):
    """Outputs of at least the bound on every row."""

    def __init__(self, task: Task, curvature=None, growth=None):
        super().__init__()
        self.module = task.module(task.X.shape[1], 1)
        self.bound = torch.tensor([task.lowest], dtype=torch.float64)
        n = len(task.X)
        self.rows = cooper.Constraint(
            cooper.ConstraintType.INEQUALITY,
            multiplier=cooper.multipliers.IndexedMultiplier(n, dtype=torch.float64),
            **self.formulation(n, curvature and curvature * task.batch_size),
        )
        self.updater = growth and (
            cooper.penalty_coefficients.MultiplicativePenaltyCoefficientUpdater(
                growth_factor=growth, has_restart=False
            )
        )

    @staticmethod
    def formulation(n, coefficient) -> dict:
        if coefficient is None:
            return {"formulation_type": cooper.formulations.Lagrangian}
        return {
            "formulation_type": cooper.formulations.AugmentedLagrangian,
            "penalty_coefficient": (
                cooper.penalty_coefficients.IndexedPenaltyCoefficient(
                    torch.full((n,), coefficient, dtype=torch.float64)
                )
            ),
        }

    def compute_cmp_state(self, X, y, index):
        y_pred = self.module(X)
        violation = (self.bound - y_pred).flatten()
        state = cooper.ConstraintState(
            violation / len(X),
            constraint_features=index,
            strict_violation=violation.detach(),
            strict_constraint_features=index,
        )
        loss = nn.functional.mse_loss(y_pred, y)
        return cooper.CMPState(loss, observed_constraints={self.rows: state})


def augmented_lagrangian(task, *, curvature=2.0, dual_lr=0.1, growth=None):
    """`dual_lr` in units of `curvature`, which grows with each violated batch."""
    problem = Positive(task, curvature, growth)
    dual = torch.optim.SGD(
        problem.dual_parameters(), lr=dual_lr * curvature, maximize=True
    )
    return train(task, problem, dual)


def nupi(task, *, dual_lr=0.2, proportional=1.0):
    """The plain Lagrangian; `proportional` is the gain of nuPI, its integral one 1."""
    problem = Positive(task)
    dual = cooper.optim.nuPI(
        problem.dual_parameters(), lr=dual_lr, Kp=proportional, Ki=1.0, maximize=True
    )
    return train(task, problem, dual)


def train(task, problem, dual) -> Progress:
    primal = task.optimizer(problem.module.parameters(), lr=task.lr, fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(primal, task.gamma)
    optimizer = cooper.optim.AlternatingDualPrimalOptimizer(problem, primal, dual)
    rows = RowDataset(*task.tensors, torch.ones(len(task.X)))
    loader = BatchLoader(rows, task.batch_size, shuffle=True, drop_last=True)
    progress = Progress(task)
    for _ in range(task.max_epochs):
        for batch in loader:
            names = {"X": batch.X, "y": batch.y, "index": batch.index}
            rolled = optimizer.roll(compute_cmp_state_kwargs=names)
            if problem.updater:
                problem.updater.step(rolled.cmp_state.observed_constraints)
        schedule.step()
        if progress.record(problem.module):
            break
    return progress
