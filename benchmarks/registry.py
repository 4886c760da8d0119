"""The sections of ``make bench``, in the order in which they run."""

from dataclasses import dataclass
from pkgutil import resolve_name

TIMINGS = """\
Times are medians over rounds in which the rows of a table take turns: the first column
is wall time, the second CPU time. A column such as "/ MLPRegressor" is the median, over
rounds, of the CPU time relative to that of the row of this name in the same round."""


@dataclass(frozen=True)
class Section:
    """A group of tables, with a page of its own."""

    title: str
    function: str  # "module:name"; takes `quick` and returns tables
    about: str  # what is measured, and what the columns mean

    def measure(self, quick: bool) -> list[dict]:
        # imported here: a section that cannot be imported fails alone
        return resolve_name(self.function)(quick)


SECTIONS = {
    "small": Section(
        "Small fits",
        "benchmarks.small_fits:small_fits",
        "The first tables time fits of `MLP` on 1,000 rows. The next one shows what a "
        "fit does once, however many epochs it has: the CPU time of a fit of one "
        "epoch, minus that of an epoch, which is a twentieth of what 20 more epochs "
        "take. Then estimators are timed with their own defaults, and beside the "
        "default of the first edition, whose code comes from the history of the "
        "repository. The last table shows what `import sklpos` adds to the import of "
        "torch, scikit-learn and skorch.",
    ),
    "steps": Section(
        "Training steps",
        "benchmarks.sections:steps",
        "One epoch of the same net, on the same rows, in batches of the same size, "
        'with Adam: divided by the number of its steps. The "bare loop" is plain '
        "PyTorch, with and without a constraint written by hand. All strategies of "
        "sklpos train `MLP`. mdmm has a table of its own: it knows scalar constraints "
        "only, one per place in the batch, and takes as long as all others together.",
    ),
    "fit": Section(
        "Whole fits",
        "benchmarks.sections:whole_fits",
        "A fit goes from arrays to an estimator that is ready. Around the epochs, it "
        "validates and scales the data, computes the residuals of the multipliers, "
        'and repairs the last layer, unless the row says "no repair". Rows of sklpos '
        "train `MLP`. In the last table, the estimators of sklpos have their own "
        "defaults, which choose the number of epochs by the number of rows.",
    ),
    "predict": Section(
        "Predictions",
        "benchmarks.sections:whole_predictions",
        "`predict` is timed on one row and on many. The bare module is called after "
        "the same validation of X.",
    ),
    "memory": Section(
        "Memory",
        "benchmarks.sections:sizes",
        "The largest memory that a fit of one epoch needs above that of X and y. Each "
        "fit runs in a process of its own, without and with the repair of the last "
        "layer. `MLP` has 40 features; `Stack` has 10, and is never repaired. The "
        "bytes per row are those of the larger of the two.",
    ),
    "search": Section(
        "Searches",
        "benchmarks.search:batched_search",
        "A grid of K candidates on one split, without a refit, is trained together by "
        "`BatchedGridSearchCV`, and one by one by `GridSearchCV`.",
    ),
    "file": Section(
        "A fit on a file",
        "benchmarks.sections:out_of_core",
        "`partial_fit` on chunks of a memory-mapped file of 10,000,000 rows, followed "
        "by `enforce`, which `Stack` does not need. The figures are the anonymous "
        "memory of the process above that before the first chunk. Pages of the file "
        "are a cache, which the system drops when it needs the memory.",
    ),
    "processes": Section(
        "Several processes",
        "benchmarks.scaling_out:scaling_out",
        "Steps of one process and of two, which share each batch in "
        "`fit_data_parallel`, on a machine with two cores. The last table is computed: "
        "if p processes share the step of one equally, each of them takes a p-th of "
        "its time, and then waits for the exchange of all gradients (the MB) around a "
        "ring, at the bandwidth and the latency that the row names.",
    ),
    "repair": Section(
        "Repair",
        "benchmarks.sections:whole_repair",
        "`enforce` on all rows, a twentieth of which is out of bounds, beside an epoch "
        "of training, and the repair of heads of many features, most of which hold a "
        "row up.",
    ),
    "compile": Section(
        "Compilation",
        "benchmarks.sections:compiled",
        "`compile=True` beside plain training, without the time of the compilation.",
    ),
}
