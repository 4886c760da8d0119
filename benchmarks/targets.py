"""The targets of ``make bench``: what is promised of which figure of its tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The CPU time of one row of a table of timings, relative to that of another."""

    what: str
    title: str  # of the table
    problem: str  # how the table's problem begins
    row: str
    reference: str
    limit: float
    unit = ""
    digits = 2

    def read(self, rows: dict) -> tuple[str, float] | None:
        """The name of the row and the figure, if the table has it."""
        if not {self.row, self.reference} <= rows.keys():
            return None
        own, other = rows[self.row], rows[self.reference]
        ratio = own["ratio"].get(self.reference)
        return self.row, ratio or own["cpu"] / other["cpu"]


@dataclass(frozen=True)
class Figure:
    """The largest figure in some columns of one row of a table."""

    what: str
    title: str
    problem: str
    row: str
    columns: tuple[str, ...]
    limit: float
    unit: str = ""
    digits: int = 0
    reference = ""

    def read(self, rows: dict) -> tuple[str, float] | None:
        """The name of the row and the figure, if the table has it."""
        row = rows.get(self.row, {})
        if not row.keys() >= set(self.columns):
            return None
        return self.row, max(row[column] for column in self.columns)


Target = Ratio | Figure


def measured(target: Target, tables: list[dict]) -> tuple[str, float | None]:
    """The data and the figure of the first table that has it."""
    for table in tables:
        problem = table.get("problem", "")
        matches = table["title"] == target.title and problem.startswith(target.problem)
        if matches and (found := target.read(table["rows"])):
            name, value = found
            return problem or name, value
    return target.problem or target.row, None


SMALL, SHALLOW = (f"10-100-1, batch 128, n {n}" for n in ("1,000", "20,000"))
DEEP, WIDE, LARGE = (
    f"{net}, batch 256, n 20,000"
    for net in ("10-64-64-1", "10-256-256-1", "784-784-784-2")
)
DEFAULT = "sklpos, augmented_lagrangian"


def step(strategy: str, net: str, reference: str, limit: float) -> Ratio:
    what, row = f"training step, `{strategy}`", f"sklpos, {strategy}"
    return Ratio(what, "one epoch", net, row, reference, limit)


def fit(n_epochs: int, net: str, limit: float) -> Ratio:
    title = f"fit of {n_epochs} epochs"
    return Ratio(title, title, net, DEFAULT, "MLPRegressor", limit)


def predict(n_rows: str, reference: str, limit: float) -> Ratio:
    title = f"predict {n_rows}"
    return Ratio(title, title, "", "sklpos", reference, limit)


def editions(n_rows: str) -> Ratio:
    what, title = "fit of the default", "default, two editions"
    return Ratio(what, title, n_rows, "this one", "first edition", 1.3)


def once(module: str) -> Figure:
    what = f"what a fit of `{module}` does once"
    row, columns = f"sklpos, {module}", ("once, ms",)
    return Figure(what, "once", "1,000 rows", row, columns, 30, "ms", 1)


def imports() -> Figure:
    row = "import sklpos, and its estimator"
    return Figure("`import sklpos`", "import", "", row, ("s",), 0.4, "s", 2)


def search(n_candidates: int, limit: float) -> Ratio:
    title = f"search over {n_candidates} candidates, 100 epochs"
    what = f"search over {n_candidates} candidates"
    own, other = "BatchedGridSearchCV", "GridSearchCV"
    return Ratio(what, title, "", own, other, limit)


def bytes_per_row(module: str) -> Figure:
    what = f"memory of a fit of `{module}` per row, above X and y"
    row = f"n 1,000,000, 1 outputs, float32, {module}"
    return Figure(what, "growth", "", row, ("bytes per row",), 60, "B")


def on_a_file(module: str) -> Figure:
    what = f"memory of a fit of `{module}` on a file"
    row = f"10,000,000 rows of 10, {module}"
    columns = "MB at most, training", "MB at most, repair"
    return Figure(what, "out of core", "", row, columns, 350, "MB")


TARGETS: list[Target] = [
    fit(100, SMALL, 1.2),
    once("MLP"),
    once("Stack"),
    *(editions(f"{n_rows} rows") for n_rows in ("200", "1,000", "2,000")),
    imports(),
    search(8, 0.18),
    search(32, 0.13),
    step("penalty", DEEP, "bare loop + penalty", 1.15),
    step("penalty", LARGE, "bare loop + penalty", 1.05),
    step("augmented_lagrangian", DEEP, "bare loop", 1.2),
    step("augmented_lagrangian", LARGE, "bare loop", 1.05),
    step("augmented_lagrangian", DEEP, "skorch", 0.25),
    step("augmented_lagrangian", DEEP, "cooper-optim", 0.6),
    *(fit(n, DEEP, 1.0) for n in (20, 100)),
    *(fit(n, WIDE, 0.85) for n in (20, 100)),
    *(fit(n, SHALLOW, 1.2) for n in (20, 100)),
    predict("1 row", "bare module", 1.5),
    predict("1 row", "MLPRegressor", 1.0),
    predict("100,000 rows", "bare module", 1.1),
    Ratio("repair of the last layer", "repair", "", "repair", "one epoch", 1.0),
    *(bytes_per_row(module) for module in ("MLP", "Stack")),
    *(on_a_file(module) for module in ("MLP", "Stack")),
]
