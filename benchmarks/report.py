"""The page of `make bench`: the targets beside what was measured, then all tables."""

NOTES = """# Results of `make bench`

{environment}; one thread, float32 unless a row says otherwise. The load of the machine
was {loads} when the sections began. Each ratio is the median, over rounds, of the CPU
times of two neighbours in one round.

| what | target | measured |
|---|---|---|
{targets}

What bounds the missed ones. What a fit does once, however long it is (the residuals of
the multipliers, the features of all rows, the repair, the errors before and after it),
takes three to four epochs of 10-256-256-1: little of the default 100, much of 20. A
fit of 1,000 rows takes half as long again as that of `MLPRegressor`, or more, since an
epoch of a few steps has the records and callbacks of any epoch. A row of a fit needs
its place in the order of the epoch, its target, weight, multiplier and prediction, and
its features for the repair, in double precision and in chunks; below a million rows
the features that are held between the rounds of the repair, at most 32 MB, weigh more.
"""

DEEP, LARGE = "10-64-64-1, batch 256, n 20,000", "784-784-784-2, batch 256, n 20,000"
WHOLE = {
    "10-64-64-1, batch 256, n 20,000": 1.0,
    "10-256-256-1, batch 256, n 20,000": 0.85,
    "10-100-1, batch 128, n 20,000": 1.2,
}
STEP, PENALTY, DEFAULT = "one epoch", "sklpos, penalty", "sklpos, augmented_lagrangian"
# title and problem of the table, row, reference, target
RATIOS = [
    (STEP, DEEP, PENALTY, "bare loop + penalty", 1.15),
    (STEP, LARGE, PENALTY, "bare loop + penalty", 1.05),
    (STEP, DEEP, DEFAULT, "bare loop", 1.2),
    (STEP, LARGE, DEFAULT, "bare loop", 1.05),
    (STEP, DEEP, DEFAULT, "skorch", 0.25),
    (STEP, DEEP, DEFAULT, "cooper-optim", 0.6),
    *(
        (f"fit of {n} epochs", net, "sklpos, default", "MLPRegressor", WHOLE[net])
        for n in (20, 100)
        for net in WHOLE
    ),
    ("predict 1 rows", "", "sklpos", "bare module", 1.5),
    ("predict 1 rows", "", "sklpos", "MLPRegressor", 1.0),
    ("predict 100,000 rows", "", "sklpos", "bare module", 1.1),
    ("repair", "", "repair", "one epoch", 1.0),
]
# title of the table, start of the row's name, what it is, target, columns
MEMORY = [
    (
        "growth",
        "n 1,000,000",
        "bytes a row of a fit, above X, y and the net",
        "multipliers and slack",
        ["bytes a row"],
    ),
    (
        "out of core",
        "",
        "MB of a fit on a file",
        "1,024",
        ["MB at most, training", "MB at most, repair"],
    ),
]


def markdown(report: dict) -> str:
    """Return the page for what `python -m benchmarks` wrote to its file."""
    tables = [table for section in report.values() for table in section["tables"]]
    found = [line for ratio in RATIOS if (line := _target(tables, *ratio))]
    last = list(report.values())[-1]["environment"]
    notes = NOTES.format(
        environment=", ".join(f"{name} {value}" for name, value in last.items()),
        loads=", ".join(str(section["load"]) for section in report.values()),
        targets="\n".join(found + _memory(tables)),
    )
    return "\n".join([notes, *map(_table, tables)])


def _target(tables, title, problem, row, reference, target) -> str | None:
    """Return a line of the first table, if that was measured."""
    for table in tables:
        rows, where = table["rows"], table.get("problem", "")
        if table["title"] != title or not where.startswith(problem):
            continue
        if {row, reference} <= rows.keys():
            ratio = rows[row]["ratio"].get(reference)
            ratio = ratio or rows[row]["cpu"] / rows[reference]["cpu"]
            return f"| {title}, {where}: {row} / {reference} | {target} | {ratio:.2f} |"
    return None


def _memory(tables) -> list[str]:
    return [
        _line([f"{what}: {name}", target, f"{max(row[c] for c in columns):.0f}"])
        for title, first, what, target, columns in MEMORY
        for table in tables
        if table["title"] == title
        for name, row in table["rows"].items()
        if name.startswith(first)
    ]


def _table(table: dict) -> str:
    rows = {name: _cells(row, table) for name, row in table["rows"].items()}
    heads = list(next(iter(rows.values())))
    title = ": ".join(filter(None, [table["title"], table.get("problem")]))
    lines = [f"\n## {title}\n", _line(["", *heads]), _line(["---"] * (1 + len(heads)))]
    lines += [_line([name, *cells.values()]) for name, cells in rows.items()]
    return "\n".join(lines)


def _cells(row: dict, table: dict) -> dict[str, str]:
    if "ratio" not in row:
        return {name: f"{value:.2f}" for name, value in row.items()}
    times = {table["unit"]: f"{row['median']:.1f}", "CPU": f"{row['cpu']:.1f}"}
    return times | {f"/ {name}": f"{value:.2f}" for name, value in row["ratio"].items()}


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"
