"""The pages of `make bench`: the targets, and the tables of each section."""

from textwrap import fill

from benchmarks.registry import SECTIONS, TIMINGS
from benchmarks.targets import TARGETS, Target, measured

PAGE = """# Results of `make bench`

{environment}

One thread, and float32 unless a row says otherwise. A target that compares two things
is a ratio of CPU times: the median over rounds, each of which times both.

| what | data | compared with | at most | measured | |
|---|---|---|---:|---:|---|
{targets}

## All tables

The load is that of the machine when the section began.

| section | wall time, s | CPU time, s | load |
|---|---:|---:|---:|
{sections}
"""


def pages(report: dict) -> dict[str, str]:
    """File name to text, for what `python -m benchmarks` wrote to its file."""
    own = {f"results/{name}.md": section_page(name, report[name]) for name in report}
    return {"RESULTS.md": main_page(report)} | own


def main_page(report: dict) -> str:
    """The targets beside what was measured, and the list of sections."""
    tables = [table for section in report.values() for table in section["tables"]]
    known = [name for name in SECTIONS if name in report]
    last = report[known[-1]]["environment"]
    return PAGE.format(
        environment=fill(", ".join(map(" ".join, last.items())) + ".", 88),
        targets="\n".join(_target(target, tables) for target in TARGETS),
        sections="\n".join(
            [*(_section(name, report[name]) for name in known), _total(report)]
        ),
    )


def _target(target: Target, tables) -> str:
    problem, value = measured(target, tables)
    unit = f" {target.unit}".rstrip()
    cells = [target.what, problem, target.reference, f"{target.limit:,g}{unit}"]
    if value is None:
        return _line([*cells, "", "not measured"])
    value = round(value, target.digits)
    verdict = "met" if value <= target.limit else "**MISSED**"
    return _line([*cells, f"{value:,.{target.digits}f}{unit}", verdict])


def _section(name: str, section: dict) -> str:
    title = f"[{SECTIONS[name].title}](results/{name}.md)"
    if section["error"]:
        title += ": failed"
    times = f"{section['wall']:.0f}", f"{section['cpu']:.0f}", f"{section['load']:.1f}"
    return _line([title, *times])


def _total(report: dict) -> str:
    wall, cpu = (sum(part[key] for part in report.values()) for key in ("wall", "cpu"))
    return _line(["all", f"{wall:.0f}", f"{cpu:.0f}", ""])


def section_page(name: str, section: dict) -> str:
    """The tables of one section, with what their columns mean."""
    about, tables = SECTIONS[name], section["tables"]
    parts = [f"# {about.title}", fill(about.about, 88)]
    if any(map(_is_timing, tables)):
        parts.append(TIMINGS)
    if section["error"]:
        parts.append(f"This section failed: `{section['error']}`.")
    return "\n\n".join([*parts, *map(_table, tables)]) + "\n"


def _is_timing(table: dict) -> bool:
    return "unit" in table


def _table(table: dict) -> str:
    cells = {name: _cells(row, table) for name, row in table["rows"].items()}
    if len(cells) < len(next(iter(cells.values()))) and not _is_timing(table):
        cells = _turned(cells)
    heads = list(next(iter(cells.values())))
    title = ": ".join(filter(None, [table["title"], table.get("problem")]))
    lines = [_line(["", *heads]), _line(["---", *["---:"] * len(heads)])]
    lines += [_line([name, *row.values()]) for name, row in cells.items()]
    return f"## {title}\n\n" + "\n".join(lines)


def _turned(cells: dict) -> dict:
    """Rows as columns: a table of few rows stays narrow."""
    heads = next(iter(cells.values()))
    return {head: {name: row[head] for name, row in cells.items()} for head in heads}


def _cells(row: dict, table: dict) -> dict[str, str]:
    if not _is_timing(table):
        return {name: _number(value) for name, value in row.items()}
    times = {table["unit"]: f"{row['median']:,.1f}", "CPU": f"{row['cpu']:,.1f}"}
    return times | {f"/ {name}": f"{value:.2f}" for name, value in row["ratio"].items()}


def _number(value) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"
