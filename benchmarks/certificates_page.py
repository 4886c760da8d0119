"""The page of ``benchmarks.certificates``, from the figures of all nets."""

import pandas as pd

from benchmarks.tables import markdown

LIRPA = ("LiRPA, CROWN", "LiRPA, alpha-CROWN")
OWN = ("CROWN", "alpha-CROWN")
INDEX = ["data", "features", "net"]
BEFORE = """\
"Before" are the figures of version 0.1. They were measured on a busy machine where
HiGHS, whose limit is by the clock on the wall, was given twice the time: its searches
took 4 to 18 s of the processor."""
BESIDE = """\
What is proved of the box, without a search and with one. For the smallest value found,
gradient descent and all searches count. Seconds are medians per net; the first bound of
auto_LiRPA includes reading the module."""


def gaps(results):
    """Return how far the proved bounds are below the smallest values found."""
    asked = results[results["question"] == "gap"].set_index(INDEX)
    return asked["seen"] - asked["proved"]


def unknown(results, question):
    """Return the names of the nets for which the answer is unknown."""
    asked = results[results["question"] == question]
    return asked[asked["status"] == "unknown"]


def summary(results):
    """Return one column of the table of goals."""
    counts = results["question"].value_counts()
    left = {key: len(unknown(results, key)) for key in ("box", "hull")}
    gap = gaps(results)
    relu = gap[gap.index.get_level_values("net") != "tanh 32"]
    return {
        f"box, {counts['box']} nets: decided, %": 100
        - 100 * left["box"] / counts["box"],
        f"hull, {counts['hull']} nets of 10-63 features: unknown": left["hull"],
        f"gap, {counts['gap']} nets of 10-30 features: mean": gap.mean(),
        "gap: median": gap.median(),
        "gap, ReLU only: median": relu.median(),
        "gap: closed to 0.25": (gap <= 0.2501).sum(),
    }


def by_net(results, before):
    """Return gaps and what is known of the hulls, net by net."""
    table = pd.DataFrame({"before": gaps(before), "now": gaps(results)})
    return table.assign(ratio=table["now"] / table["before"])


def hulls(results, before):
    """Return a line for each net whose hull was or is undecided."""
    lines = ["| | smallest value found | proved before | proved now | verdict now |"]
    lines += ["| --- | ---: | ---: | ---: | --- |"]
    both = [
        figures[figures["question"] == "hull"].set_index(INDEX)
        for figures in (before, results)
    ]
    for key, now in both[1].iterrows():
        old = both[0].loc[key]
        if "unknown" in (old["status"], now["status"]):
            numbers = (now["seen"], old["proved"], now["proved"])
            cells = " | ".join(f"{number:.2f}" for number in numbers)
            lines.append(f"| {key[0]}, {key[2]} | {cells} | {now['status']} |")
    return "\n".join(lines)


def beside_lirpa(results):
    """Return what is proved of the boxes, beside auto_LiRPA."""
    both = results[results["question"].isin(["gap", *OWN, *LIRPA])]
    table = both.pivot_table("proved", INDEX, "question", sort=False).dropna()
    seen = results[results["question"] == "gap"].set_index(INDEX)["seen"]
    columns = {
        "smallest value found": seen,
        **{name.replace("LiRPA", "auto_LiRPA"): table[name] for name in LIRPA},
        **{f"sklpos, {name}": table[name] for name in OWN},
        "sklpos, 10 s": table["gap"],
    }
    seconds = both.groupby("question")["seconds"].median()
    table = pd.DataFrame(columns).dropna()
    names = (*LIRPA, *OWN, "gap")
    times = [float("nan"), *(seconds[name] for name in names)]
    table.loc[("median seconds", "", "")] = times
    return table


def named(table):
    """Return a table whose rows have one name each."""
    return table.set_axis([", ".join(filter(None, (a, c))) for a, _, c in table.index])


def page(results, before, doc):
    """Return the whole text; `doc` is the description of the questions."""
    notes = "\n\n".join(doc.split("\n\n")[1:-1])
    goals = pd.DataFrame({"before": summary(before), "now": summary(results)})
    parts = ["# Certificates", "", notes, "", BEFORE, ""]
    parts += ["## Together", "", markdown(goals, 2), ""]
    parts += ["## Hulls", "", "The others are decided, now as before.", ""]
    parts += [hulls(results, before), "", "## Gaps", ""]
    parts += [markdown(named(by_net(results, before)), 2), ""]
    if set(LIRPA) <= set(results["question"]):
        parts += ["## Beside auto_LiRPA", "", BESIDE, ""]
        parts += [markdown(named(beside_lirpa(results)), 2), ""]
    return "\n".join(parts)
