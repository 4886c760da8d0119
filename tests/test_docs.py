"""The README, the pages and the examples run, and what they quote is true."""

import importlib
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sklpos
from sklpos import STRATEGIES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
# Each runs in a process of its own, which takes 4 to 100 s.

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```\n", re.M | re.S)
QUOTE = re.compile(r"<!-- printed by (\S+) -->\n```text\n(.*?)^```\n", re.M | re.S)
NEEDS = re.compile(r"<!-- needs (.+) -->")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
PYTHON = re.compile(r"^ *```python$", re.M)
PAGES_WITH_CODE = [p for p in PAGES if PYTHON.search(p.read_text(encoding="utf-8"))]
END_OF_BLOCK = "-- end of block --"
HERE = Path(__file__)


def run(script, folder):
    """Run a script as a user does, and return the lines it prints."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def code_and_output(page):
    """Yield each python block, with the text block that follows it at once, if any."""
    text = page.read_text(encoding="utf-8")
    fences = [match for match in FENCE.finditer(text) if match[2] in ("python", "text")]
    for match, after in zip(fences, [*fences[1:], None], strict=True):
        if match[2] == "python":
            follows = after and not text[match.end() : after.start()].strip()
            shown = after[3] if follows and after[2] == "text" else ""
            yield textwrap.dedent(match[3]), textwrap.dedent(shown)


def same(quoted, true):
    """Whether two lines agree: words alike, numbers to the digits that are quoted."""
    if NUMBER.sub("#", quoted).split() != NUMBER.sub("#", true).split():
        return False
    pairs = zip(NUMBER.findall(quoted), NUMBER.findall(true), strict=True)
    return all(agree(*pair) for pair in pairs)


def agree(quoted, true):
    """Whether two numbers differ by at most one in the last digit of the first."""
    unit = 10.0 ** -len(quoted.partition(".")[2])
    return abs(float(quoted) - float(true)) <= 1.001 * unit


def assert_quoted(quote, printed):
    """Assert that the lines of a quote were printed, in their order."""
    rest = iter(printed)
    for line in filter(str.strip, quote.splitlines()):
        assert any(same(line, other) for other in rest), "\n".join(
            [f"not printed, or not in this order: {line!r} among", *printed]
        )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda path: path.name)
def test_code_of_a_page_prints_what_the_page_says(page, tmp_path):
    blocks = list(code_and_output(page))
    for names in NEEDS.findall(page.read_text(encoding="utf-8")):
        for name in names.split(", "):
            pytest.importorskip(name)
    script = tmp_path / "page.py"
    code = "".join(f"{code}\nprint({END_OF_BLOCK!r})\n" for code, _ in blocks)
    script.write_text(code, encoding="utf-8")
    outputs = "\n".join(run(script, tmp_path)).split(END_OF_BLOCK)
    for (_, quote), output in zip(blocks, outputs[:-1], strict=True):
        lines = [line for line in output.splitlines() if line]
        assert_quoted(quote, lines)
        assert len(lines) == len(quote.splitlines())


def test_code_that_needs_more_is_run_by_a_test_of_its_own():
    """Blocks fenced as ``py`` are left out here: some test must name their page."""
    tests = [path for path in HERE.parent.rglob("*.py") if path != HERE]
    named = "".join(path.read_text(encoding="utf-8") for path in tests)
    fenced = [p for p in PAGES if re.search(r"^ *```py$", p.read_text("utf-8"), re.M)]
    assert [page.name for page in fenced if page.name not in named] == []


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_prints_what_the_pages_say(example, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    printed = run(example, tmp_path)
    for picture in re.findall(r"\w+\.png", "\n".join(printed)):
        assert (tmp_path / picture).stat().st_size > 10_000
    for page in PAGES:
        for name, quote in QUOTE.findall(page.read_text(encoding="utf-8")):
            if name == f"examples/{example.name}":
                assert_quoted(quote, printed)


def test_percentages_of_the_readme_are_those_of_its_table():
    text = README.read_text(encoding="utf-8")
    ((_, table),) = QUOTE.findall(text)
    shares = re.findall(r"(\d+\.\d) %", text.replace("\n", " "))
    assert len(shares) >= 3
    assert set(shares) <= set(re.findall(r"(\d+\.\d)%", table))


def test_quotes_name_an_example():
    for page in PAGES:
        for name, _ in QUOTE.findall(page.read_text(encoding="utf-8")):
            assert ROOT / name in EXAMPLES


ROOMS = ["certificates", "criteria", "distributed", "export", "metrics", "repair"]
ROOMS += ["strategies"]
PUBLIC = [sklpos, *(importlib.import_module(f"sklpos.{room}") for room in ROOMS)]


def public_names(module):
    """Return `__all__` or, without one, the classes and functions defined there."""
    defined = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
    ]
    return getattr(module, "__all__", defined)


def test_reference_lists_every_public_name():
    reference = (ROOT / "docs/reference/index.rst").read_text(encoding="utf-8")
    names = {name for module in PUBLIC for name in public_names(module)}
    public = {name for name in names if not name.startswith("_")}
    assert public - set(re.findall(r"\w+", reference)) == set()


def test_names_of_the_reference_exist():
    reference = (ROOT / "docs/reference/index.rst").read_text(encoding="utf-8")
    unknown, module = [], "sklpos"
    for line in reference.splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line) and line.strip() != "strategies":
            try:
                pkgutil.resolve_name(f"{module}.{line.strip()}")
            except (ImportError, AttributeError):
                unknown.append(f"{module}.{line.strip()}")
    assert unknown == []


def test_readme_lists_every_strategy_with_its_guarantee():
    lines = README.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    listed = {name.strip("`"): guarantee for name, _, guarantee, _ in rows}
    assert listed == {name: cls.guarantee for name, cls in STRATEGIES.items()}
    assert list(listed) == list(STRATEGIES)


#: Models of the benchmark, in the order of the table that quotes it.
QUOTED_MODELS = [
    "free net",
    "free net, clipped",
    "two bounds, the default",
    "two bounds, `MLP`, repaired",
    "two bounds, `MLP`, `activation` (sigmoid)",
    "two bounds, `MLP`, `nonnegative_weights`",
    "two bounds, `MLP`, `nonnegative_weights`, 300 epochs",
    "free net on the logit of y",
    "softmax net, cross-entropy",
    "fractional logit",
    "beta regression",
]


def cells_below(heading, text):
    """Return the cells of the table below a heading, by the first one of their row."""
    section = re.split("^#+ ", text.partition(f"{heading}\n")[2], flags=re.M)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {name: cells for name, *cells in rows if "---" not in name}


def rounds_to(quoted, value):
    """Whether a number is quoted to its digits; 0 without any is exact."""
    digits = len(quoted.partition(".")[2])
    return float(quoted) == (round(float(value), digits) if digits else float(value))


def test_the_table_of_models_for_a_share_quotes_the_benchmark():
    page = (ROOT / "docs/how-to/choose-a-strategy.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks/TWO_BOUNDS.md").read_text(encoding="utf-8")
    measured = cells_below("## Means over all sets", results)
    table = cells_below("### Which model for a share?", page)
    quoted = list(table.values())[-len(QUOTED_MODELS) :]
    assert len(table) == len(QUOTED_MODELS) + 1  # the header
    for name, (_, *cells, _) in zip(QUOTED_MODELS, quoted, strict=True):
        r2, _, outside, *means, _ = measured[name]
        numbers = [cell.removesuffix(" %") for cell in cells]
        assert all(map(rounds_to, numbers, [r2, outside, *means])), (name, cells)


def test_the_texts_on_the_league_quote_it():
    results = (ROOT / "benchmarks/LEAGUE.md").read_text(encoding="utf-8")
    everything = cells_below("### All sets: 31", results)
    unseen = cells_below("### Sets without a part in any choice: 14", results)
    ranks, others = (
        sorted(float(row[0]) for row in table.values() if row[0][:1].isdigit())
        for table in (everything, unseen)
    )
    own, free = everything["default"], everything["default, free and clipped"]
    repaired, clipped = (
        f"{100 * float(everything[f'sklpos MLP, {name}'][7]):.1f} %"
        for name in ("repaired", "clipped")
    )
    pages = (
        "README.md",
        "docs/how-to/choose-a-strategy.md",
        "docs/explanation/stack.md",
    )
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in pages]
    words = " ".join(" ".join(texts).split())
    assert [ranks[0], others[0]] == [
        float(t["default"][0]) for t in (everything, unseen)
    ]
    for quote in (
        f"has the best mean rank by R2 of {len(ranks)} models, {ranks[0]}",
        f"{others[0]} against {others[1]} of the next",
        f"{own[2]} with weights of one sign and {free[2]} with free ones",
        f"{repaired} of the test predictions",
        f"and {clipped} of an unconstrained net without one",
    ):
        assert quote in words


def test_the_text_on_shares_quotes_the_benchmark():
    page = (ROOT / "docs/how-to/choose-a-strategy.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks/TWO_BOUNDS.md").read_text(encoding="utf-8")
    outside = cells_below("## Share of test predictions outside", results)
    repaired, free = (
        max(map(float, outside[name]))
        for name in ("two bounds, `MLP`, repaired", "free net")
    )
    fits = cells_below("## Test R2", results)
    pairs = zip(fits["two bounds, the default"], fits["free net, clipped"], strict=True)
    pairs = sorted(pairs, key=lambda pair: float(pair[0]) - float(pair[1]))
    worst, best = (" against ".join(pairs[k]).replace("0.", ".") for k in (0, -1))
    words = " ".join(page.split())
    for quote in (
        f"{100 * repaired:.0f} % in one of the sets, in which an ordinary net has "
        f"{100 * free:.0f} %",
        f"loses most in one of 437 rows, {worst}, and gains most in one of 4,000 rows, "
        f"{best}",
    ):
        assert quote in words


#: Groups of sets in the benchmark, by the words of the table that quotes it.
QUOTED_GROUPS = {
    "counts, Poisson": "Counts",
    "amounts with zeros, Tweedie": "Amounts that may be 0",
    "positive amounts, gamma": "Positive amounts",
}


def test_the_table_of_deviances_quotes_the_benchmark():
    page = (ROOT / "docs/how-to/quantiles-and-counts.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks/COUNTS.md").read_text(encoding="utf-8")
    table = cells_below("## Counts and amounts", page)
    quoted = [(name, *cells) for name, cells in table.items() if len(cells) == 4]
    assert len(quoted) == 6
    for name, sets, deviance, gains, error in quoted:
        group, _, module = name.rpartition(", ")
        title = QUOTED_GROUPS[group]
        module = "MLP" if module == "`MLP`" else "Stack"
        means = cells_below(f"### {title}: means over the sets", results)
        change = cells_below(f"### {title}: deviance minus squared error", results)
        assert [gains, sets] == change[f"{module}, D2"][-2:], name
        pairs = zip(means[module], means[f"{module}, deviance"], strict=True)
        for text, pair in zip((deviance, error), list(pairs)[:2], strict=True):
            assert text == " → ".join(pair).replace("0.", "."), name


def test_the_text_on_quantiles_quotes_the_benchmark():
    page = (ROOT / "docs/how-to/quantiles-and-counts.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks/QUANTILES.md").read_text(encoding="utf-8")
    means = cells_below("## Means over the sets", results)
    names = ["default", "default, early stopping", "HGB"]
    names += ["`MLP`, `activation`", "`MLP`, `nonnegative_weights`"]
    inside = [f"{100 * float(means[name][3]):.0f} %" for name in names]
    scores = [means[name][5].replace("0.", ".") for name in names]
    words = " ".join(page.split())
    for quote in (
        f"default covers {inside[0]} of the new rows on average, or {inside[1]} with",
        f"one model per quantile, covers {inside[2]}",
        f"loss is {scores[0]}, {scores[1]} and {scores[2]}",
        f"it explains {scores[3]} there",
        f"which explain {scores[4]}.",
    ):
        assert quote in words


def test_rounding_of_quotes():
    assert same("rmse 1.23", "rmse   1.229")
    assert same("20.0% of", "20.1% of")
    assert not same("rmse 1.23", "rmse 1.25")
    assert not same("a 1", "b 1")
    assert not same("1 2", "1")
