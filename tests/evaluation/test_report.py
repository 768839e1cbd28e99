import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.reference import write_reference
from landmark_challenge.task import load_task
from landmark_evaluation.entries import Entry
from landmark_evaluation.leaderboard import make_leaderboard
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.report.page import leaderboard_files, report_files
from landmark_evaluation.result_folder import (
    BOARD_FIGURES,
    BOARD_TABLES,
    FIGURES,
    TABLES,
    clear_board,
    clear_result,
    write_files,
)
from landmark_evaluation.scoring import evaluate_submission

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HABITS = {"senior": 0.0, "junior": 1.0}
EVIL = '<img src=x onerror="document.title=1">&"'


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(5, 35, (12, 3, 3)).round(1)


def evaluate(kit, folder, points, *, dimension=3, protected=False, images=False, **more):
    task = kit.task(dimension=dimension, observers=("one", "two"))
    points = points * ([1, 1, 0] if dimension == 2 else [1, 1, 1])
    other = points + np.array([0.4, 0.3, 0])
    if images:
        array = np.random.default_rng(1).integers(0, 255, (40,) * dimension).astype(np.uint8)
        with DatasetWriter(folder / "data", task, source="test", licence="none") as writer:
            (writer.folder / "task.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
            for row, case in enumerate(points):
                given = {"one": Landmarks(task.names, case), "two": Landmarks(task.names, other[row])}
                writer.add(Case(f"case{row}", "test", f"case{row}"), Image.of(array, [1.0] * dimension), given)
    else:
        columns = {f"case{row}": {"scanner": EVIL if row % 2 else "B"} for row in range(len(points))}
        kit.dataset(folder / "data", task, {"one": points, "two": other}, columns=columns)
    if protected:
        write_reference(Dataset(folder / "data"), folder / "hidden")
    truth = open_reference(folder / ("hidden" if protected else "data"))
    predicted = points + np.random.default_rng(2).normal(0, 1, points.shape)
    predicted[0, 1] = np.nan
    kit.platform(folder / "p", task, predicted, invoke_duration="PT0.4S", **more)
    return evaluate_submission(read_submission(folder / "p", truth), truth)


class Strict(HTMLParser):
    """Refuses unbalanced tags and anything that would load from elsewhere."""

    VOID = ("meta", "link", "br", "img", "hr", "input", "path", "use", "image", "circle", "line", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("#", "data:image/")), f"{tag} {key}={value[:80]}"
            assert not key.startswith("on"), f"{tag} has the handler {key}"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def write_report(out: Path, evaluation, **more) -> None:
    write_files(out, report_files(evaluation, **more))


def check_page(path: Path) -> str:
    html = path.read_text()
    page = Strict()
    page.feed(html)
    assert not page.open
    assert len(page.ids) == len(set(page.ids)), "an id comes twice"
    assert not re.search(r"@import|url\((?!#)", html), "a style loads something"
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "@media print" in html
    return html


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_report_holds_everything_in_one_file(kit, points, tmp_path, dimension):
    covariance = {name: np.diag([1.0, 1.0, 1.0]).tolist() for name in "abc"}
    evaluation = evaluate(kit, tmp_path, points, dimension=dimension, covariance=covariance)
    write_report(tmp_path / "r", evaluation, title=EVIL, images=None)
    html = check_page(tmp_path / "r/report.html")
    assert EVIL not in html and "&lt;img src=x" in html, "names are escaped"
    assert "reference: mean of one, two" in html
    for name in ("success", "landmarks", "cases", "directions", "uncertainty", "runtime"):
        assert f'id="plot-{name}"' in html
        for extension in ("svg", "png"):
            assert (tmp_path / f"r/figures/{name}.{extension}").stat().st_size > 1000
    for name in ("landmarks", "observers", "agreement", "subgroups", "worst-cases"):
        assert f'id="table-{name}"' in html
        assert (tmp_path / f"r/tables/{name}.csv").read_text().count("\n") > 1
        assert r"\bottomrule" in (tmp_path / f"r/tables/{name}.tex").read_text()
    assert r"\&" in (tmp_path / "r/tables/subgroups.tex").read_text()
    assert "var(--blue)" in html and "#2563c9" not in html.partition("</style>")[2], "colours follow the page's theme"


@pytest.mark.parametrize("dimension", [2, 3])
def test_overlays_show_the_worst_and_the_median_case(kit, points, tmp_path, dimension):
    evaluation = evaluate(kit, tmp_path, points, dimension=dimension, images=True)
    write_report(tmp_path / "r", evaluation, title="x", images=Dataset(tmp_path / "data"))
    html = check_page(tmp_path / "r/report.html")
    assert "worst case: case0" in html and "median case:" in html
    pictures = html.count("data:image/jpeg;base64,")
    assert pictures == (2 if dimension == 2 else 6)
    marks = html.count('class="reference"'), html.count('class="predicted"')
    assert marks == ((6, 5) if dimension == 2 else (6, 3)), "the missing point has no cross"


def test_marks_lie_where_the_points_are(kit, points, tmp_path):
    evaluation = evaluate(kit, tmp_path, points, dimension=2, images=True)
    write_report(tmp_path / "r", evaluation, title="x", images=Dataset(tmp_path / "data"))
    html = (tmp_path / "r/report.html").read_text()
    x, y, _ = evaluation.reference.points_mm[0, 0]  # 1 mm pixels, the first centred on 0: the picture starts at -0.5
    assert f'cx="{x + 0.5:.2f}" cy="{y + 0.5:.2f}"' in html


def test_a_protected_report_shows_headlines_and_says_how_noisy_they_are(kit, points, tmp_path):
    evaluation = evaluate(kit, tmp_path, points, protected=True)
    write_report(tmp_path / "r", evaluation, title="x", images=None)
    html = check_page(tmp_path / "r/report.html")
    assert "scores carry noise of SD" in html and "submissions" not in html.partition("takes more than")[0][-200:]
    assert "<svg" not in html and "case0" not in html
    written = {path.stem for path in (tmp_path / "r/tables").iterdir()}
    assert written == {"landmarks", "runtime"}
    assert (tmp_path / "r/tables/landmarks.csv").read_text().count("\n") == 2


def test_all_that_a_report_writes_can_be_removed(kit, points, tmp_path):
    covariance = {"a": np.diag([0.5, 1.0, 2.0]).tolist()}
    evaluation = evaluate(kit, tmp_path, points, covariance=covariance)
    write_report(tmp_path / "r", evaluation, title="x", images=None)
    assert len(list((tmp_path / "r").rglob("*.*"))) > 12
    clear_result(tmp_path / "r")
    assert not list((tmp_path / "r").iterdir())


def test_whatever_a_page_is_made_of_is_known_to_what_clears_it(kit, tmp_path):
    """Enough cases, observers, covariances and columns for every table and figure that there is."""
    random = np.random.default_rng(1)
    task = load_task("ceph-19")
    truth = random.uniform(20, 180, (24, 19, 3)) * [1, 1, 0]
    with DatasetWriter(tmp_path / "data", task, source="test", licence="none") as writer:
        for row, case in enumerate(truth):
            given = {name: Landmarks(task.names, case + [shift, row / 9, 0]) for name, shift in HABITS.items()}
            writer.add(Case(f"{row}", "test", f"{row}", columns={"sex": "mf"[row % 2]}), None, given)
    reference = open_reference(tmp_path / "data")
    sure = np.broadcast_to(np.eye(3), (24, 19, 3, 3))
    submission = replace(
        read_submission(tmp_path / "data/landmarks/reference", reference), covariance_mm2=sure, cold_s=np.ones(24)
    )
    evaluation = evaluate_submission(submission, reference, resamples=50)
    made = report_files(evaluation, title="x", images=None)
    assert {Path(name).stem for name in made if name.startswith("tables/")} == set(TABLES)
    assert {Path(name).stem for name in made if name.startswith("figures/")} == set(FIGURES)
    errors = [evaluation.scores.error_mm, 2 * evaluation.scores.error_mm]
    cases = tuple(f"{row}" for row in range(24))
    entries = [
        Entry(name, evaluation.metrics, task, cases, task.names, e) for name, e in zip("ab", errors, strict=True)
    ]
    made = leaderboard_files(make_leaderboard(entries, task, resamples=50), curve_limit_mm=8)
    assert {Path(name).stem for name in made if name.startswith("tables/")} == set(BOARD_TABLES)
    assert {Path(name).stem for name in made if name.startswith("figures/")} == set(BOARD_FIGURES)
    write_files(tmp_path / "board", made)
    clear_board(tmp_path / "board")
    assert not list((tmp_path / "board").iterdir())


def test_names_are_shown_as_they_are(kit, points, tmp_path):
    """A dollar sign starts no formula, an underscore hides nothing, `all` is a landmark like others."""
    evaluation = evaluate(kit, tmp_path, points)
    task, cases = evaluation.reference.task, tuple(f"case{k}" for k in range(12))
    entries = [
        Entry(name, evaluation.metrics, task, cases, task.names, evaluation.scores.error_mm * factor)
        for name, factor in (("run_$1_$2", 1.0), ("_base", 1.1), ("all", 1.2))
    ]
    made = leaderboard_files(make_leaderboard(entries, task, resamples=50), curve_limit_mm=8)
    curves = made["figures/success.svg"].decode()
    assert "run_$1_$2" in curves and "_base" in curves and ">all<" in curves
    assert 'class="total"' not in made["leaderboard.html"].decode()
    page = report_files(evaluation, title="x", images=None)["report.html"].decode()
    assert page.count('class="total"') == 1


@pytest.fixture
def board(kit, points, tmp_path):
    evaluation = evaluate(kit, tmp_path, points)
    generator = np.random.default_rng(3)
    cases, task = tuple(f"case{k}" for k in range(12)), evaluation.reference.task
    entries = []
    for name, factor in (("bad", 3.0), ("good & <b>bold</b>", 1.0), ("fair", 1.5)):
        errors = evaluation.scores.error_mm * factor * generator.uniform(0.8, 1.2, (12, 3))
        errors[~np.isfinite(evaluation.scores.error_mm)] = np.nan
        mean = evaluation.metrics.aggregates.mre_mm.model_copy(update={"mean": float(np.nanmean(errors))})
        aggregates = evaluation.metrics.aggregates.model_copy(update={"mre_mm": mean})
        metrics = evaluation.metrics.model_copy(update={"aggregates": aggregates})
        entries.append(Entry(name, metrics, task, cases, task.names, errors))
    write_files(tmp_path / "board", leaderboard_files(make_leaderboard(entries, task, resamples=200), curve_limit_mm=8))
    return tmp_path / "board"


def test_a_leaderboard_holds_everything_in_one_file(board):
    html = check_page(board / "leaderboard.html")
    assert "<b>bold</b>" not in html
    for name in ("intervals", "success", "stability", "significance"):
        assert f'id="plot-{name}"' in html and (board / f"figures/{name}.png").is_file()
    assert "no error rates" in html
    assert html.index("good &amp;") < html.index("fair") < html.index(">bad<")
    assert "reference: mean of one, two" in html


def browse(page: Path, script: str) -> tuple[str, str]:
    """The DOM after `script` ran in headless Chromium, and what the console said."""
    changed = page.with_name("probe.html")
    changed.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    outcome = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", changed.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return outcome.stdout, "\n".join(line for line in outcome.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_sorting_works_in_a_browser_without_a_console_error(board):
    script = """
    const table = document.querySelector("#table-leaderboard");
    const column = [...table.tHead.rows[0].cells].findIndex(head => head.textContent.startsWith("Mean radial"));
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent[0]).join("");
    const button = table.tHead.rows[0].cells[column].querySelector("button");
    const seen = [names()];
    button.click(); seen.push(names());
    button.click(); seen.push(names());
    document.title = "sorted " + seen.join(" ") + " wide " + (document.documentElement.scrollWidth > innerWidth);
    """
    dom, console = browse(board / "leaderboard.html", script)
    assert "<title>sorted gfb gfb bfg wide false</title>" in dom
    assert console == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_report_loads_in_a_browser_without_a_console_error(kit, points, tmp_path):
    write_report(
        tmp_path / "r", evaluate(kit, tmp_path, points, images=True), title=EVIL, images=Dataset(tmp_path / "data")
    )
    script = """
    const total = document.querySelector("#table-landmarks tr.total");
    document.querySelector("#table-landmarks th button").click();
    const last = total === total.parentNode.lastElementChild;
    document.title = "last " + last + " pictures " + document.querySelectorAll("svg.overlay image").length;
    """
    dom, console = browse(tmp_path / "r/report.html", script)
    assert "<title>last true pictures 6</title>" in dom
    assert console == ""


def test_the_ceph_task_shows_its_clinical_analyses(tmp_path):
    task = load_task("ceph-19")
    points = np.random.default_rng(0).uniform(20, 180, (5, 19, 3)) * [1, 1, 0]
    with DatasetWriter(tmp_path / "data", task, source="test", licence="none") as writer:
        for row, case in enumerate(points):
            given = {
                name: Landmarks(task.names, case + [shift, 0, 0]) for name, shift in (("senior", 0), ("junior", 1))
            }
            writer.add(Case(f"{row}", "test", f"{row}"), None, given)
    truth = open_reference(tmp_path / "data")
    evaluation = evaluate_submission(read_submission(tmp_path / "data/landmarks/reference", truth), truth)
    write_report(tmp_path / "r", evaluation, title="x", images=None)
    rows = (tmp_path / "r/tables/clinical.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        [name, '"100.0 [100.0'] for name in ("ANB", "SNB", "SNA", "ODI", "APDI", "FHI", "FHA", "MW")
    ]


@pytest.mark.filterwarnings("error")
def test_twenty_submissions_fit_on_the_page(kit, points, tmp_path):
    evaluation = evaluate(kit, tmp_path, points)
    task, cases = evaluation.reference.task, tuple(f"case{k}" for k in range(12))
    entries = [
        Entry(f"submission {k}", evaluation.metrics, task, cases, task.names, evaluation.scores.error_mm * (1 + k / 9))
        for k in range(20)
    ]
    write_files(tmp_path / "board", leaderboard_files(make_leaderboard(entries, task, resamples=50), curve_limit_mm=8))
    html = check_page(tmp_path / "board/leaderboard.html")
    assert "further submissions" in html
