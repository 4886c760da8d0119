"""The page of ``benchmarks.league``, from the figures of all games."""

import pandas as pd

from benchmarks.league_models import DEFAULT, MODELS, RANKED, SLOW
from benchmarks.tables import markdown

LEAST = 1e-3  # of the mean target: smallest prediction that a deviance is taken of
LEAD = 0.02
LEGEND = f"""\
"Rank" and "wins" are by test R2 among the models that a user would choose from; our own
variants have none. An R2 below -1 counts as -1 in the mean. The mean absolute error
("MAE") and the Poisson deviance are in units of the mean target; for the deviance,
predictions are raised to {LEAST:g} of the mean target. "Negative" is the share of
negative predictions on the test rows, "far" that on rows ten times as far from the
training mean, "ratio" the sum of the predictions divided by that of the targets, and
"seconds" the CPU time of a fit: times of one run, listed below, can be compared.
RealMLP and TabM of pytabkit take up to two minutes per fit: TabM plays the first split
only, and tables without them are of a run in which they have not played all games."""
DIGITS = {"rank": 1, "wins": 0, "R2": 3, "MAE": 3, "rank, MAE": 1, "deviance": 3}
DIGITS |= {"rank, deviance": 1, "negative": 3, "far": 3, "ratio": 3, "seconds": 2}


def wide(results, measure):
    """Return the means over the splits: a row for each set, a column for each model."""
    table = results.pivot_table(measure, "data", "model", "mean", sort=False)
    return table[[name for name in MODELS if name in table]]


def complete(results):
    """Return the games on those sets that every model has played."""
    played = wide(results, "r2").dropna().index
    return results[results["data"].isin(played)]


def standings(results, ranked=RANKED):
    """Return the models by mean rank, and below those that have none."""
    r2 = wide(results, "r2")
    rivals = r2[[name for name in r2 if name in ranked]]
    errors = {name: wide(results, name) for name in ("mae", "deviance")}
    ranks = {name: own[rivals.columns].rank(axis=1) for name, own in errors.items()}
    wins = rivals.idxmax(axis=1).value_counts()
    columns = {
        "rank": rivals.rank(axis=1, ascending=False).mean(),
        "wins": wins.reindex(rivals.columns, fill_value=0),
        "R2": r2.clip(lower=-1).mean(),
        "MAE": errors["mae"].mean(),
        "rank, MAE": ranks["mae"].mean(),
        "deviance": errors["deviance"].mean(),
        "rank, deviance": ranks["deviance"].mean(),
    }
    for name in ("negative", "far", "ratio", "seconds"):
        columns[name] = wide(results, name).mean()
    return pd.DataFrame(columns).sort_values(["rank", "R2"], ascending=[True, False])


def leads(results, rivals=RANKED):
    """Return a line for each set on which a rival is clearly ahead of the default."""
    r2 = wide(results, "r2")
    if DEFAULT not in r2:
        return ["- unknown: the default has not played"]
    lines = []
    for data, row in r2.sub(r2[DEFAULT], axis=0).iterrows():
        ahead = row[row.index.isin(rivals) & (row > LEAD)].sort_values(ascending=False)
        names = "; ".join(f"{name} +{lead:.3f}" for name, lead in ahead.items())
        lines += [f"- {data} ({r2[DEFAULT][data]:.3f}): {names}"] if names else []
    return lines or ["- none"]


def runs(results):
    """Return a line for each run: times within one can be compared."""
    lines = []
    for run, games in results.groupby("run"):
        names = [name for name in MODELS if name in set(games["model"])]
        lines.append(f"- {run}, {games['data'].nunique()} sets: " + "; ".join(names))
    return lines


def report(results, notes, groups):
    """Return the whole text; ``groups`` are names of sets."""
    results = results[results["model"].isin(MODELS)]
    order = [name for names in groups.values() for name in names]
    results = results.sort_values("data", key=lambda names: names.map(order.index))
    several = results[~results["model"].isin(SLOW)]
    first = results[results["seed"] == 0]
    unseen = several[several["data"].isin(groups["unseen"])]
    parts = ["# The league", notes, about(several, groups), "## Standings", LEGEND]
    tables = {
        "All sets": (several, RANKED),
        "Sets without a part in any choice": (unseen, RANKED),
        "All models, the first split of each set": (first, RANKED + SLOW),
    }
    for title, (games, ranked) in tables.items():
        games = complete(games)
        if len(games):
            parts += [f"### {title}: {games['data'].nunique()}"]
            parts += [markdown(standings(games, ranked), DIGITS)]
    parts += [f"## Where a rival's R2 is more than {LEAD:g} above the default's"]
    parts += ["By set, with the R2 of the default:", "\n".join(leads(several))]
    parts += ["Models that are too slow for more than the first split, on that split:"]
    parts += ["\n".join(leads(first, SLOW))]
    for title, name in (("Test R2", "r2"), ("Seconds of a fit", "seconds")):
        parts += [f"## {title}", markdown(wide(several, name), 3)]
    parts += ["## Runs", "\n".join(runs(results))]
    return "\n\n".join(parts) + "\n"


def about(results, groups):
    """Return how many splits there are, and what the sets are."""
    tuned, fresh, wide, unseen = (", ".join(groups[name]) for name in groups)
    splits, sets = results["seed"].nunique(), results["data"].nunique()
    return (
        f"Here: {sets} sets, {splits} splits each. The defaults of sklpos were chosen"
        f" on {tuned}, and confirmed on {fresh}. The results of {wide} led to the"
        f" limits on the number of intervals. No part in any choice had {unseen}, which"
        " were selected by their descriptions alone."
    )
