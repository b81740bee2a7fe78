"""A recipe of a user's package or file works like a shipped one; a stored study finds it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metascale.cli import main, recipes
from metascale.cli.main import app
from metascale.core.errors import InputError
from metascale.study.design import Study
from metascale.workflow.recipe import SHIPPED, load_recipe, recipe_names, recipe_of

FEW_SHOT = '''
"""Sinusoids of the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from metascale.workflow import Count, FewShotConfig, Profile, Recipe


@dataclass(frozen=True)
class WavesConfig(FewShotConfig):
    width: Count = 8


RECIPE = Recipe(
    name="waves",
    title="Waves of my own",
    question="Do more waves help?",
    config=WavesConfig,
    defaults={"method": "maml", "max_steps": 4, "eval_every": 2, "n_validation_tasks": 4, "n_test_tasks": 6,
              "n_curve_tasks": 2, "meta_batch": 2, "budget": "steps", "inner_lr": 0.01, "outer_lr": 0.01},
    axes={"n_tasks": [2, 4, 8]},
    seeds=(0,),
    profiles={"narrow": Profile("half as wide", {"width": 4})},
)


def parts(config, seed, device):
    from metascale.models import Perceptron
    from metascale.tasks import SinusoidTasks
    from metascale.workflow import Parts

    source = SinusoidTasks(config.k_shot, config.n_query, config.n_tasks, config.n_validation_tasks,
                           config.n_test_tasks, seed)
    return Parts(source, Perceptron(1, 1, config.width, 1, loss="squared_error"))
'''
OWN_TRIAL = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metascale.workflow import Count, Recipe, TrialConfig


@dataclass(frozen=True)
class PowerConfig(TrialConfig):
    size: Count = 1


RECIPE = Recipe(
    name="power", title="A power of my own", question="Is it a power law?", config=PowerConfig,
    axes={"size": [1, 2, 4]}, seeds=(0, 1), loss="loss", packages=(),
)


def trial(config, run, device):
    try:
        from beside import EXTRA
    except ImportError:
        from my_power.beside import EXTRA
    settings = RECIPE.validate(config)
    return {"loss": settings.size**-0.5 + 0.01 * config["seed"] + EXTRA}


def costs(study):
    return "power (dry run)", ["", ""], [["sizes", str(study.axes["size"])]]


def conclude(view, table):
    path = Path(view.folder) / "mine.txt"
    path.write_text(str(len(table.rows)))
    return [path]
"""


@dataclass
class Shell:
    """The command line in processes of its own, which see a user's package only through PYTHONPATH."""

    recipe: str
    folder: Path
    source: Path
    path: list[str] = field(default_factory=list)

    def __call__(self, *arguments: str, status: int = 0) -> str:
        paths = [*self.path, *(part for part in sys.path if part)]
        done = subprocess.run(
            [sys.executable, "-m", "metascale", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200", "TERM": "dumb"},
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stderr


def install(folder: Path, name: str, text: str) -> Path:
    """A package with an entry point, as pip would leave it in ``folder``."""
    package = folder / f"my_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "study.py").write_text(text)
    (package / "beside.py").write_text("EXTRA = 0")
    info = folder / f"my_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: my-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[metascale.recipes]\n{name} = my_{name}.study\n")
    return package / "study.py"


def shell(kind: str, name: str, text: str, folder: Path) -> Shell:
    if kind == "file":
        (folder / "files").mkdir()
        (folder / "files" / "mine.py").write_text(text)
        (folder / "files" / "beside.py").write_text("EXTRA = 0")
        return Shell("files/mine.py", folder, folder / "files" / "mine.py")
    source = install(folder / "site", name, text)
    return Shell(name, folder, source, [str(folder / "site")])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The command line in this process, in the test's folder; what it said, on standard error where it failed."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "200", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def called(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["metascale", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        assert code == status, (arguments, printed)
        return printed.out if status == 0 else printed.err

    return called


@pytest.mark.usefixtures("undrawn")
def test_a_users_few_shot_file_works_like_a_shipped_one(here: Callable[..., str], tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(FEW_SHOT)
    assert "waves (dry run)" in here("run", "./mine.py", "--dry-run", "--out", "study")
    said = here("run", "./mine.py", "--set", "widht=3", "--out", "study", status=2)
    assert "there is no key 'widht'; did you mean 'width'?" in said
    assert not (tmp_path / "study").exists()
    here("run", "./mine.py", "--profile", "narrow", "--executor", "serial", "--no-baselines", "--out", "study")
    stored = json.loads((tmp_path / "study" / "study.json").read_text())["base"]
    assert (stored["recipe"], stored["width"]) == (str(source), 4)
    assert "law so far: " in here("status", "study")
    page = tmp_path / "study" / "report.html"
    page.unlink()
    here("report", "study")
    assert "Do more waves help?" in page.read_text()
    trial = next((tmp_path / "study" / "runs").iterdir())
    assert "6 test tasks" in here("evaluate", f"study/runs/{trial.name}")
    results = (tmp_path / "study" / "results.csv").read_bytes()
    here("resume", "study")
    assert (tmp_path / "study" / "results.csv").read_bytes() == results


@pytest.mark.long
@pytest.mark.parametrize("kind", ["file", "entry point"])
def test_a_users_few_shot_recipe_works_like_a_shipped_one(kind: str, tmp_path: Path) -> None:
    metascale = shell(kind, "waves", FEW_SHOT, tmp_path)
    assert "waves (dry run)" in metascale("run", metascale.recipe, "--dry-run", "--out", "study")
    said = metascale("run", metascale.recipe, "--set", "widht=3", "--out", "study", status=2)
    assert "there is no key 'widht'; did you mean 'width'?" in said
    assert not (tmp_path / "study").exists()
    metascale("run", metascale.recipe, "--profile", "narrow", "--workers", "2", "--out", "study")
    stored = json.loads((tmp_path / "study" / "study.json").read_text())
    assert stored["base"]["recipe"] == ("waves" if kind == "entry point" else str(metascale.source))
    assert stored["base"]["width"] == 4
    assert "law so far: " in metascale("status", "study")
    page = tmp_path / "study" / "report.html"
    page.unlink()
    metascale("report", "study")
    assert "Do more waves help?" in page.read_text()
    trial = next((tmp_path / "study" / "runs").iterdir())
    assert "6 test tasks" in metascale("evaluate", f"study/runs/{trial.name}")
    results = (tmp_path / "study" / "results.csv").read_bytes()
    metascale("resume", "study")
    assert (tmp_path / "study" / "results.csv").read_bytes() == results
    if kind == "entry point":
        assert "Waves of my own" in metascale("recipes")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["file", "entry point"])
def test_a_users_own_trial_function_costs_and_conclusion_are_found(kind: str, tmp_path: Path) -> None:
    metascale = shell(kind, "power", OWN_TRIAL, tmp_path)
    assert "power (dry run)" in metascale("run", metascale.recipe, "--dry-run", "--out", "study")
    metascale("run", metascale.recipe, "--workers", "2", "--out", "study")
    assert (tmp_path / "study" / "mine.txt").read_text() == "6"
    assert json.loads((tmp_path / "study" / "law.json").read_text())["n_observations"] == 6
    trial = json.loads((tmp_path / "study" / "study.json").read_text())["trial"]
    assert trial == ("my_power.study:trial" if kind == "entry point" else "metascale.workflow.recipe:own_trial")

    metascale.source.rename(tmp_path / "gone.py")
    said = metascale("resume" if kind == "file" else "report", "study", status=2)
    assert "study 'power' needs its recipe: " in said
    assert ("'power' of package 'my-power' cannot be imported" if kind == "entry point" else "no recipe file") in said
    assert said.count("\n") == 1


def test_names_are_listed_and_doubled_or_wrong_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("waves", "digits", "other"):
        install(tmp_path, name, FEW_SHOT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert recipe_names() == (*SHIPPED, "other", "waves")
    assert load_recipe("waves").source == "waves"
    with pytest.raises(InputError, match="'digits' is registered twice, by metascale and by package 'my-digits'"):
        load_recipe("digits")
    with pytest.raises(InputError, match="recipe 'other' of package 'my-other' calls itself 'waves'"):
        load_recipe("other")
    with pytest.raises(InputError, match="there is no recipe 'wave'; did you mean 'waves'"):
        load_recipe("wave")
    monkeypatch.setattr(recipes.out, "width", 200)  # the width of a terminal differs from one test process to another
    listed = CliRunner().invoke(app, ["recipes"])
    assert listed.exit_code == 0
    for said in ("Waves of my own", "'digits' is registered twice", "calls itself 'waves'", "sinusoid"):
        assert said in listed.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no recipe file"),
        ("x = 1", "defines no RECIPE"),
        ("def broken(:", "cannot be imported: invalid syntax"),
        ("import a_package_that_nobody_has", "cannot be imported: No module named 'a_package_that_nobody_has'"),
    ],
)
def test_a_file_without_a_recipe_is_refused_in_a_sentence(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def test_a_stored_study_names_no_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    study = Study("waves", "some.module:trial", {"recipe": "mine.py"}, {"x": [1, 2]}, [0])
    with pytest.raises(InputError, match=r"study 'waves' names its recipe by a relative path, mine\.py"):
        recipe_of(study)


def test_a_recipe_that_defines_no_parts_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(FEW_SHOT).replace("def parts", "def other"))
    recipe = load_recipe(str(path))
    with pytest.raises(InputError, match=r"recipe 'waves' defines no function 'parts'"):
        recipe.make_parts(recipe.validate({}), 0, "cpu")


def test_a_backbone_brings_the_settings_of_adapters() -> None:
    """Rates of a perceptron over words (0.01, outer 0.005) are not those of adapters (0.005, outer 0.001)."""
    csv = load_recipe("csv")
    by_name = csv.study({"path": "t.csv", "backbone": "some/model"}, "lora")
    assert csv.study({"path": "t.csv", "backbone": "some/model"}) == by_name
    assert (by_name.base["head"], by_name.base["inner_lr"], by_name.base["outer_lr"]) == ("learned", 0.005, 0.001)
    words = csv.study({"path": "t.csv", "backbone": ""})
    assert words == csv.study({"path": "t.csv"})
    assert (words.base["head"], words.base["inner_lr"], words.base["outer_lr"]) == ("zero", 0.01, 0.005)
    smoke = csv.study({"path": "t.csv", "backbone": "some/model"}, "smoke")
    assert (smoke.base["head"], smoke.base["max_steps"]) == ("learned", 10)
    mine = csv.study({"path": "t.csv", "backbone": "some/model", "inner_lr": 0.02})
    assert (mine.base["head"], mine.base["inner_lr"]) == ("learned", 0.02)


@pytest.mark.parametrize("name", ["banking77", "clinc150"])
def test_no_backbone_brings_the_settings_of_words(name: str) -> None:
    """However it comes: by a profile, a value, or an axis; and never both kinds in one study."""
    recipe = load_recipe(name)
    words = recipe.study(profile="words")
    assert (words.base["method"], words.base["head"], words.base["inner_lr"]) == ("fomaml", "zero", 0.01)
    given = recipe.study({"backbone": "", "n_tasks": [5, 20, 100, 500]}, seeds=[0, 1, 2])
    assert (given.base, given.axes) == (words.base, words.axes)
    along = recipe.study({"backbone": [""]}, seeds=[0])
    assert along.base["inner_lr"] == 0.01
    assert [one.about for one in recipe.following({"backbone": ""})] == ["a perceptron over word counts"]
    adapters = recipe.study()
    assert (adapters.base["method"], adapters.base["inner_lr"], adapters.base["dtype"]) == ("reptile", 5e-4, "bfloat16")
    assert recipe.study({"backbone": "tinyllama"}).base == adapters.base
    with pytest.raises(InputError, match=r"values of 'backbone' have other defaults than each other .* two studies"):
        recipe.study({"backbone": ["tinyllama", ""]})
