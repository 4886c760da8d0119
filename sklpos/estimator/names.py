"""Names of parameters: those of other libraries, and those that are misspelled."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from sklpos.nets.hints import nearest, shown

#: Parameters of skorch's net start with one of these and two underscores.
PREFIXES = (
    "module",
    "optimizer",
    "criterion",
    "callbacks",
    "iterator_train",
    "iterator_valid",
    "dataset",
    "compile",
)
#: Name of the var-keyword itself, which scikit-learn's checks pass like a parameter.
OPEN_NAME = "net_params"

#: What to write here -> what scikit-learn, skorch, Keras, Lightning or boosted trees
#: call it.
SYNONYMS: dict[str, str] = {
    "max_epochs": "max_iter n_iter n_epochs num_epochs nb_epochs epochs epoch "
    "max_epoch train_epochs n_estimators num_boost_round",
    "lr": "learning_rate learning_rate_init learning_rate_initial initial_lr base_lr "
    "eta eta0 step_size",
    "lr_schedule": "scheduler lr_scheduler learning_rate_schedule lr_policy",
    "batch_size": "batch batches minibatch minibatch_size n_batch batch_len "
    "train_batch_size",
    "optimizer": "solver optim algorithm",
    "optimizer='sgd' with optimizer__momentum": "momentum nesterovs_momentum",
    "optimizer__betas": "beta_1 beta_2 beta1 beta2 betas",
    "optimizer__eps": "epsilon eps",
    "criterion": "loss loss_fn loss_func loss_function objective cost cost_function "
    "error_function",
    "lower_bound": "ylim y_lim y_min ymin y_range output_range min_value min_y "
    "minimum lower lower_limit low lb vmin bound bounds clip",
    "upper_bound": "y_max ymax max_value max_y maximum upper upper_limit high ub vmax",
    "lower_bound=0, which is the default": "nonnegative positive positive_output "
    "nonneg only_positive positivity",
    "module": "model net network nn regressor base_estimator estimator backbone",
    "module=MLP with module__hidden_layer_sizes": "hidden_layer_sizes "
    "hidden_layer_size hidden_sizes hidden_size hidden_layers hidden_units hidden_dim "
    "hidden_dims hidden n_hidden num_hidden layers layer_sizes n_layers num_layers "
    "architecture neurons units depth",
    "module=MLP with module__activation": "activation activations activation_function "
    "act nonlinearity",
    "module=MLP with module__dropout": "dropout dropout_rate drop_rate p_dropout",
    "weight_decay": "penalty C l1 l2 l2_reg l2_regularization reg_lambda reg_alpha "
    "regularization kernel_regularizer lambda_ wd",
    "early_stopping": "early_stop use_early_stopping",
    "early_stopping with validation_fraction, or X_val and y_val of fit": "train_split",
    "X_val and y_val of fit": "X_val y_val X_valid y_valid eval_set validation_data",
    "n_iter_no_change": "patience early_stopping_rounds early_stopping_patience "
    "n_epochs_no_change stopping_rounds",
    "validation_fraction": "validation_split val_split val_fraction valid_fraction "
    "validation_size val_size test_size",
    "tol": "min_delta tolerance threshold",
    "callbacks": "callback hooks",
    "scale_y": "normalize_y standardize_y scale_target normalize",
    "on_violated_y": "on_violation",
    "dtype": "precision torch_dtype",
    "device": "cuda use_cuda gpu use_gpu accelerator",
    "warm_start": "resume",
    "verbose": "verbosity silent quiet progress_bar",
    "random_state": "seed random_seed rng manual_seed",
    "strategy": "constraint constraints method mode",
    "strategy='activation'": "predict_nonlinearity output_activation out_activation "
    "final_activation last_activation",
    "callbacks with an EpochScoring of skorch": "metrics metric eval_metric scoring",
    "iterator_train__shuffle": "shuffle",
    "iterator_train__num_workers": "num_workers",
    "iterator_train__drop_last": "drop_last",
    "iterator_train__pin_memory": "pin_memory",
    "iterator_train__sampler": "sampler",
    "parameters that start with iterator_train__": "iterator_train iterator",
    "parameters that start with iterator_valid__": "iterator_valid",
    "parameters that start with dataset__": "dataset",
    "n_jobs of a search, such as GridSearchCV": "n_jobs n_threads",
    "sample_weight of fit": "sample_weight weights class_weight",
}
_STARTS = tuple(f"{prefix}__" for prefix in PREFIXES)
_MEANT = {old: new for new, names in SYNONYMS.items() for old in names.split()}


def is_net_param(name: str) -> bool:
    """Whether a name belongs to the net, such as ``optimizer__weight_decay``.

    Parameters
    ----------
    name : str

    Returns
    -------
    bool
    """
    # `compile` is both a parameter of skorch and the prefix of others.
    return name.startswith(_STARTS) or name in (OPEN_NAME, "compile", "cuda_graph")


def without_prefix(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Parameters of one part of the net, without their prefix.

    Parameters
    ----------
    params : mapping of str to object
        Parameters of the net.
    prefix : str
        One of `PREFIXES`.

    Returns
    -------
    dict
    """
    start = f"{prefix}__"
    return {
        name.removeprefix(start): value
        for name, value in params.items()
        if name.startswith(start)
    }


def check_names(params: Iterable[str], owner: type) -> None:
    """Refuse names in the constructor that neither the estimator nor the net knows.

    Parameters
    ----------
    params : iterable of str
        Names of the open keyword arguments of the estimator.
    owner : type
        Class of the estimator.

    Raises
    ------
    TypeError
        The message names what was probably meant.
    """
    for name in params:
        if not is_net_param(name):
            hint = _hint(name, inspect.signature(owner).parameters)
            raise TypeError(f"{owner.__name__} has no parameter {shown(name)}; {hint}")


def check_set_params(estimator, params: dict[str, Any]) -> None:
    """Refuse names in `set_params` that neither the estimator nor the net knows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    params : dict
        What `set_params` was given; nothing is set yet.

    Raises
    ------
    ValueError
        As scikit-learn raises; the message names what was probably meant.
    """
    own = estimator.get_params(deep=False)
    strategy = params.get("strategy", estimator.strategy)
    for name in params:
        first, _, rest = name.partition("__")
        if is_net_param(name) or (name in own and not rest):
            continue
        if first == "strategy" and isinstance(strategy, str):
            raise ValueError(f"{name} {_needs_instance(strategy)}")
        nested = params.get(first, own.get(first))
        if not rest or not hasattr(nested, "set_params") or isinstance(nested, type):
            raise ValueError(
                f"Invalid parameter {shown(name)} for estimator "
                f"{type(estimator).__name__}; {_hint(name, own)}"
            )


def _needs_instance(strategy: str) -> str:
    return (
        "needs strategy to be an instance, such as "
        f"sklpos.strategies.AugmentedLagrangian(), but it is the name {strategy!r}."
    )


def _hint(name: str, own: Iterable[str]) -> str:
    """What was probably meant by a name, as a question or a rule."""
    meant = _meant(name, list(own))
    if meant is not None:
        return f"did you mean {meant}?"
    prefixes = ", ".join(f"{prefix}__" for prefix in PREFIXES)
    return f"parameters of the net start with one of {prefixes}."


def _meant(name: str, own: list[str]) -> str | None:
    if name in _MEANT:
        return _MEANT[name]
    first, _, rest = name.partition("__")
    if first == "strategy" and rest:
        return f"strategy=sklpos.strategies.AugmentedLagrangian({rest}=...)"
    if rest:
        prefix = nearest(first, PREFIXES)
        return None if prefix is None else f"{prefix}__{rest}"
    # skorch's own hint: one underscore where two belong.
    for prefix in PREFIXES:
        if name.startswith(f"{prefix}_"):
            return f"{prefix}__{name.removeprefix(prefix).lstrip('_')}"
    # A parameter goes before the name that another library has for one.
    found = nearest(name, own) or nearest(name, _MEANT)
    return _MEANT.get(found, found)
