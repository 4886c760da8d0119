"""A plugin of pytest: tests of another project meet the estimator, and are recorded.

Run as ``pytest -p foreign_suite <path>`` with FOREIGN_SUITE naming the project and
FOREIGN_OUTCOMES the file to write.
"""

import inspect
import json
import os
from pathlib import Path

import adaptors
import pytest
import skorch
from sklearn import neural_network

SUITES = {
    "sklearn": [(neural_network, "MLPRegressor", adaptors.LikeMLPRegressor)],
    "skorch": [
        (skorch, "NeuralNetRegressor", adaptors.LikeNet),
        (skorch, "NeuralNetClassifier", adaptors.LikeNet),
    ],
}
outcomes = {}
used = False


def replace_classes():
    for module, name, adaptor in SUITES[os.environ["FOREIGN_SUITE"]]:

        class Noted(adaptor):
            """Notes that a test has made one."""

            def __new__(cls, *args, **kwargs):
                global used
                used = True
                return super().__new__(cls)

        # As pickle looks for it.
        Noted.__name__ = Noted.__qualname__ = name
        Noted.__module__ = __name__
        globals()[name] = Noted
        setattr(module, name, Noted)


# Before the tests are imported.
replace_classes()


def pytest_collection_modifyitems(items):
    """Leave out what is about classifiers alone, as far as names tell."""
    kept = [
        item
        for item in items
        if os.environ["FOREIGN_SUITE"] != "sklearn"
        or (
            ("Regressor" in inspect.getsource(item.function))
            and "MLPClassifier" not in item.name
        )
    ]
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    global used
    used = False
    result = yield
    if not used:
        # It is about something else.
        outcomes.pop(item.nodeid, None)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except KeyboardInterrupt:
        # Some tests raise it themselves; it must not end all tests.
        pytest.fail("interrupted")


def pytest_runtest_logreport(report):
    if report.outcome != "passed":
        text = str(getattr(report.longrepr, "reprcrash", report.longrepr))
        outcomes[report.nodeid] = report.outcome + ": " + text
    else:
        outcomes.setdefault(report.nodeid, "passed")


def pytest_sessionfinish():
    Path(os.environ["FOREIGN_OUTCOMES"]).write_text(json.dumps(outcomes))
