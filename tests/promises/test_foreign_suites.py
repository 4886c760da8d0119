"""The tests of scikit-learn's `MLPRegressor` and of skorch's callbacks, as installed.

They are given the estimator under the names that they expect (see ``adaptors.py``).
What differs does so by design, and is listed with its reason; an entry that no longer
differs fails, too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skorch
from sklearn import neural_network

TESTS = Path(__file__).parents[1]

WARNS = "only divergence warns: max_epochs is a length of training, not a limit"
NO_DATA = "there is no net before fit, which knows the number of features"
ONE_EPOCH = "partial_fit trains for one epoch, and takes no validation rows"
COLUMNS = "the history has more columns"
DIVERGES = "a loss that is no longer finite ends training with an error"
NO_ROWS = "a callback that lacks validation rows is refused before training"
INTERRUPT = "within a batch, a KeyboardInterrupt of a callback leaves fit"
SHAPE = "InputShapeSetter is refused: a module receives its number of features"
MODULE = "an MLP stands for the module of the test"
CACHING = "use_caching is a parameter of each callback"
TENSOR = "rows are tensors of the net"

BY_DESIGN = {
    "sklearn": {
        "test_lbfgs_regression_maxfun": WARNS,
        "test_mlp_warm_start_no_convergence": WARNS,
        "test_nonfinite_params": DIVERGES,
        "test_mlp_diverging_loss": DIVERGES,
        "test_mlp_vs_poisson_glm_equivalent": "predictions have no logarithmic link",
        "test_minimum_input_sample_size": "one validation row is enough for a loss",
    },
    "skorch": {
        "TestPrintLog::test_call_count": NO_DATA,
        "TestPrintLog::test_header": NO_DATA,
        "TestPrintLog::test_lines": NO_DATA,
        "TestPrintLog::test_first_row": NO_DATA,
        "TestPrintLog::test_args_passed_to_tabulate": NO_DATA,
        "TestPrintLog::test_with_additional_key": NO_DATA,
        "TestPrintLog::test_with_event_key": NO_DATA,
        "TestPrintLog::test_witout_valid_data": NO_DATA,
        "TestTensorBoard::test_keys_from_history_logged": COLUMNS,
        "TestTensorBoard::test_ignore_keys": COLUMNS,
        "TestTensorBoard::test_other_key_mapper": COLUMNS,
        "TestTensorBoard::test_fit_with_dict_input": "X is one array, and no dict",
        "TestLRCallbacks::test_lr_callback_batch_steps_correctly_fallback": ONE_EPOCH,
        "TestLRCallbacks::test_lr_scheduler_record_epoch_step": DIVERGES,
        "TestLRCallbacks::test_lr_scheduler_record_batch_step": DIVERGES,
        "TestReduceLROnPlateau::test_reduce_lr_monitor_with_string[valid_loss]": (
            ONE_EPOCH
        ),
        "TestReduceLROnPlateau::test_reduce_lr_record_epoch_step": DIVERGES,
        "TestReduceLROnPlateau::test_reduce_lr_record_batch_step": DIVERGES,
        "TestGradientNormClipping::test_no_parameter_updates_when_norm_0": NO_DATA,
        "TestEpochScoring::test_scoring_uses_best_score_when_continuing_training": (
            ONE_EPOCH
        ),
        "TestEpochScoring::test_without_target_data_works": TENSOR,
        "TestEpochScoring::test_net_input_is_scoring_input": TENSOR,
        "TestEpochScoring::test_with_caching_get_iterator_not_called": NO_DATA,
        "TestBatchScoring::test_scoring_uses_best_score_when_continuing_training": (
            ONE_EPOCH
        ),
        "TestBatchScoring::test_scoring_with_cache_and_fit_interrupt_resets_infer": (
            INTERRUPT
        ),
        "TestCheckpoint::test_default_without_validation_raises_meaningful_error": (
            NO_ROWS
        ),
        "TestCheckpoint::test_automatically_load_checkpoint": MODULE,
        "TestTrainEndCheckpoint::test_train_end_with_load_init": NO_DATA,
        "TestScoringCacheGlobalControl::test_net_overrides_caching": CACHING,
        "TestScoringCacheGlobalControl::test_net_use_caching_wrong_value_raises": (
            CACHING
        ),
        "TestEarlyStopping::test_weights_restore": MODULE,
        "TestEarlyStopping::test_typical_use_case_stopping": MODULE,
        "TestEarlyStopping::test_custom_scoring_stop": MODULE,
        "TestParamMapper::test_subzero_at_fails": NO_DATA,
        "TestParamMapper::test_initialization_is_effective": "lr is positive",
        "TestParamMapper::test_freezing_is_effective": NO_DATA,
        "TestParamMapper::test_unfreezing_is_effective": NO_DATA,
        "TestParamMapper::test_schedule_is_effective": NO_DATA,
        "TestInputShapeSetter::test_shape_set": SHAPE,
        "TestInputShapeSetter::test_one_dimensional_x_raises": SHAPE,
        "TestInputShapeSetter::test_shape_set_using_fn": SHAPE,
        "TestInputShapeSetter::test_parameter_name": SHAPE,
        "TestInputShapeSetter::test_module_name": SHAPE,
    },
}
WHERE = {
    "sklearn": Path(neural_network.__file__).parent / "tests/test_mlp.py",
    "skorch": Path(skorch.__file__).parent / "tests/callbacks",
}
# Fewer mean that the adaptor is no longer used.
FEWEST = {"sklearn": 15, "skorch": 150}


def outcomes_of(suite, folder):
    """Outcome of each test that makes an estimator, by its name without the file."""
    path = folder / "outcomes.json"
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.getenv("PYTHONPATH")])])
    env = {
        **os.environ,
        "FOREIGN_SUITE": suite,
        "FOREIGN_OUTCOMES": str(path),
        "PYTHONPATH": paths,
    }
    plugins = [f"-p{name}" for name in ("foreign_suite", "no:cacheprovider")]
    command = ["-m", "pytest", "-q", *plugins]
    done = subprocess.run(
        [sys.executable, *command, "-c", os.devnull, str(WHERE[suite])],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert path.exists(), done.stdout + done.stderr
    found = json.loads(path.read_text())
    return {name.partition("::")[2]: outcome for name, outcome in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("suite", BY_DESIGN)
def test_suite_of_another_project(suite, tmp_path):
    if not WHERE[suite].exists():
        pytest.skip("installed without its tests")
    outcomes = outcomes_of(suite, tmp_path)
    expected = BY_DESIGN[suite]
    failed = {name: text for name, text in outcomes.items() if text != "passed"}
    assert len(outcomes) >= FEWEST[suite]
    assert {
        name: text
        for name, text in failed.items()
        if name not in expected and name.partition("[")[0] not in expected
    } == {}
    differing = failed.keys() | {name.partition("[")[0] for name in failed}
    assert expected.keys() - differing == set()
