"""Random lives of one estimator: what holds after every step, whatever came before."""

import copy
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from generated import repeatable
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from properties import assert_obeys, assert_same_bits, training_state
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.strategies import AugmentedLagrangian

RNG = np.random.default_rng(0)
X_ALL = RNG.normal(size=(36, 3))
Y_ALL = np.maximum(X_ALL @ RNG.normal(size=(3, 2)), 0)
INSTANCE = AugmentedLagrangian(dual_lr=0.2)

rows = st.sampled_from([slice(0, 12), slice(8, 30), slice(35, 36), slice(None)])
PARAMS = {
    "strategy": [*sorted(STRATEGIES), INSTANCE],
    "repair": ["head", "head", None],
    "balance": [True, False],
    "alpha": [0.5, 1.0],
    "lower_bound": [0.0, 0.2, [0.1, -np.inf]],
    "upper_bound": [None, 1.5, [None, 0.8]],
    "max_epochs": [1, 2],
    "batch_size": [8, -1],
    "lr": [0.01, 0.1],
    "warm_start": [True, False],
    "dtype": ["float32", "float64"],
}
changes = st.sampled_from(sorted(PARAMS)).flatmap(
    lambda name: st.sampled_from(PARAMS[name]).map(lambda value: {name: value})
)


class Life(RuleBasedStateMachine):
    """An estimator, and what we know of it: what was promised, and what it predicts."""

    def __init__(self):
        super().__init__()
        self.held = []  # rows, each with the bounds that they must obey
        self.expected = None  # predictions, until something may change them
        self.inputs = X_ALL.copy(), Y_ALL.copy()

    @initialize(strategy=st.sampled_from(PARAMS["strategy"]))
    def make(self, strategy):
        self.model = PositiveOutputRegressor(
            strategy=strategy,
            module=MLP,
            module__hidden_layer_sizes=(4,),
            module__activation="sigmoid",  # of use for any bounds
            max_epochs=1,
            on_violated_y="ignore",
            random_state=0,
        )

    @property
    def fitted(self):
        return self.expected is not None

    def promised(self, part, lower, upper):
        """What a repair, or a strategy by itself, holds from now on."""
        if self.model.strategy_.guarantee == "everywhere":
            self.held = [(slice(None), lower, upper)]
        elif self.model.repair_ is not None:
            assert self.model.repair_.feasible_.all()
            self.held = [(part, lower, upper)]
        else:
            self.held = []

    def call(self, name, part):
        """Do it, or be refused with nothing changed."""
        before = self.state() if self.fitted else None
        try:
            getattr(self.model, name)(X_ALL[part], Y_ALL[part])
        except ValueError as error:
            if before is None or "use fit with warm_start=False" not in str(error):
                raise
            assert_same_bits(self.state(), before)
            return
        self.promised(part, self.model.lower_bound, self.model.upper_bound)
        self.expected = self.model.predict(X_ALL)

    def state(self):
        return copy.deepcopy([training_state(self.model), self.model.predict(X_ALL)])

    @rule(part=rows)
    def fit(self, part):
        self.call("fit", part)

    @rule(part=rows)
    def partial_fit(self, part):
        self.call("partial_fit", part)

    @rule(change=changes)
    def set_params(self, change):
        assert self.model.set_params(**change) is self.model

    @precondition(lambda self: self.fitted)
    @rule(part=rows)
    def enforce(self, part):
        state = copy.deepcopy(training_state(self.model))
        self.model.enforce(X_ALL[part])
        assert_same_bits(training_state(self.model), state)
        bounds = self.model.net_.targets.bounds
        self.promised(part, bounds.lower, bounds.upper)
        self.expected = self.model.predict(X_ALL)

    @precondition(lambda self: self.fitted)
    @rule()
    def repeat_the_fit(self):
        """A clone forgets, and a new fit depends on parameters and data alone."""
        fits = [clone(self.model).fit(X_ALL, Y_ALL) for _ in range(2)]
        assert_same_bits(*(training_state(model) for model in fits))
        assert_same_bits(*(model.predict(X_ALL) for model in fits))

    @rule()
    def become_a_clone(self):
        self.model = clone(self.model)
        self.held, self.expected = [], None
        with pytest.raises(NotFittedError):
            self.model.predict(X_ALL)

    @rule()
    def become_a_pickle(self):
        self.model = pickle.loads(pickle.dumps(self.model))

    @rule()
    def become_a_copy(self):
        """What happens to a copy is not felt here."""
        twin = self.model
        self.model = copy.deepcopy(twin)
        twin.set_params(warm_start=False).fit(-X_ALL, Y_ALL)

    @invariant()
    def sound(self):
        """Finite, the same twice, unchanged by looking, and true to its promises."""
        if not self.fitted:
            return
        before = copy.deepcopy(training_state(self.model))
        for _ in range(2):
            assert_same_bits(self.model.predict(X_ALL), self.expected)
        assert np.isfinite(self.expected).all()
        assert_same_bits(training_state(self.model), before)
        for part, *bounds in self.held:
            assert_obeys(self.model, X_ALL[part], *bounds)

    @invariant()
    def the_user_keeps_what_is_his(self):
        assert_same_bits([X_ALL, Y_ALL], list(self.inputs))
        assert vars(INSTANCE) == vars(AugmentedLagrangian(dual_lr=0.2))


def run(max_examples, steps):
    with warnings.catch_warnings():
        for kind in (
            "alpha=.* has no effect",
            "balance was dropped",
            "training diverged, or",
            "no head was",
        ):
            warnings.filterwarnings("ignore", kind)
        how = repeatable(max_examples, stateful_step_count=steps)
        run_state_machine_as_test(Life, settings=how)


def test_some_lives():
    run(6, 12)


@pytest.mark.slow
def test_many_lives():
    run(200, 30)
