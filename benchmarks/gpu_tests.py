"""The tests that need a GPU, in a process of their own."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
MARK = "mark.cuda"
# Of the time that is left.
SHARE = 0.4
# Seconds for the report, once pytest was interrupted.
GRACE = 15
LONGEST = 300


def cuda_tests(run) -> str:
    """Run them, and list those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ended = _run_tests(report, SHARE * run.left)
        cases = ElementTree.parse(report).findall(".//testcase") if ended else []
    kinds = ("failure", "error", "skipped")
    found = {kind: [c for c in cases if c.find(kind) is not None] for kind in kinds}
    bad = [*found["failure"], *found["error"]]
    passed = len(cases) - len(bad) - len(found["skipped"])
    lines = [
        "## Tests marked `cuda`",
        f"{passed} passed, {len(bad)} failed, {len(found['skipped'])} skipped.",
    ]
    if ended != "finished":
        lines.append("The time was up: pytest was interrupted.")
    lines += [_failure(case) for case in bad]
    return "\n\n".join(lines)


def _run_tests(report: Path, seconds: float) -> str:
    """Whether pytest ``"finished"``, was ``"interrupted"``, or left no report."""
    files = [path for path in (ROOT / "tests").rglob("*.py") if MARK in _text(path)]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    command += sorted(map(str, files))
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        ended = "finished"
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            ended = "interrupted"
            # As by Ctrl-C, after which pytest still writes its report.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    return ended if report.exists() else ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _failure(case: ElementTree.Element) -> str:
    part = case.find("failure") if case.find("error") is None else case.find("error")
    message = part.get("message", "") or (part.text or "")
    # The last lines of the traceback say where.
    where = (part.text or "").strip()[-LONGEST:]
    name = f"{case.get('classname')}.{case.get('name')}"
    return f"`{name}`\n\n```text\n{message[:LONGEST]}\n...\n{where}\n```"
