"""``python -m tests.study.mixed_soak FOLDER SECONDS [SEED]``: three kinds of studies under faults of every kind.

A plain study, a search, and a study of a program, one after another. Beside the blows of `tests.study.soak` finished
files are edited (and put back, or their run deleted), the folder is moved, and further runners join. Whoever meets an
edited file must name it. At the end every file is that of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from metascale.core.errors import CorruptFile
from metascale.study import ProcessExecutor, Study, read_study
from metascale.study.search.run import run_any_study
from metascale.study.store.claims import locked
from metascale.study.store.folder import damaged_runs
from metascale.study.store.verify import verify_study
from metascale.workflow.own import own_study
from tests.study import runner_process
from tests.study.folders import TRIALS, final_files
from tests.study.soak import LEASE_S, Soak

N_RUNNERS, N_WORKERS = 2, 2
FAULTS = {
    "runner killed": 0.25, "trial killed": 0.2, "runner stopped": 0.08, "runner asked to end": 0.1,
    "result edited": 0.12, "design edited": 0.05, "folder moved": 0.1, "another runner": 0.1,
}  # fmt: skip
PROGRAM = """
import json, os, sys, time
width, seed = int(sys.argv[1]), int(sys.argv[2])
for step in range(20):
    print("step", step, flush=True)
    time.sleep(float(os.environ.get("METASCALE_SOAK_PAUSE_S", "0")))
json.dump({"loss": width ** -0.5 + seed / 100}, open(os.environ["METASCALE_RESULT"], "w"))
"""


def studies(folder: Path) -> dict[str, tuple[Study, int]]:
    """The three studies, and how many pauses each makes in all."""
    (folder / "program.py").write_text(PROGRAM)
    command = f"{sys.executable} {folder / 'program.py'} {{width}} {{seed}}"
    search = {"space": {"rate": {"log": [1e-4, 1.0]}}, "trials": 12, "together": 4}
    return {
        "plain": (Study("plain", f"{TRIALS}:paced", {"n_steps": 40}, {"n_tasks": list(range(1, 16))}, (0, 1)), 1200),
        "search": (
            Study(
                "search",
                "tests.study.tuning_trials:paced_bowl",
                {"rate": 0.5, "tune": search},
                {"width": [1, 30]},
                (0, 1),
            ),
            28 * 8,
        ),
        "program": (own_study(None, command, {"width": [1, 2, 4, 8, 16, 32, 64, 128]}, [0, 1, 2]), 24 * 20),
    }


@dataclass
class Edit:
    """A file that was changed, what it held, and when it is put right."""

    path: Path
    whole: bytes
    until: float


class Mixed(Soak):
    """Runners of one study, kept running until one of them says that it is done, and what befell them."""

    def __init__(self, folder: Path, seconds: float, seed: int, study: Study) -> None:
        super().__init__(folder, seconds, seed)
        self.study = study
        self.complete = False
        self.edit: Edit | None = None
        self.unnamed: list[str] = []
        self.n_moves = 0

    def done(self) -> bool:
        return self.complete

    def tend(self) -> None:
        for pid, since in list(self.stopped.items()):
            if time.monotonic() - since > 2 * LEASE_S:
                os.kill(pid, signal.SIGCONT)
                del self.stopped[pid]
        if self.edit is not None and time.monotonic() > self.edit.until:
            self._put_right()
        for runner in list(self.runners):
            code = runner.poll()
            if code is None:
                continue
            _, said = runner.communicate()
            self.runners.remove(runner)
            # A runner that met the edited design names it, and leaves with a traceback, as it has no command line.
            named = code == 1 and "study.json is not" in said
            ends = (0, 1, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
            if code not in ends or ("Traceback" in said and not named):
                self.unexpected.append(f"{code}: {said[-1500:]}")
            self.complete = self.complete or (code == 0 and self.edit is None)
        while len(self.runners) < N_RUNNERS and not self.complete:
            self._start()

    def _start(self) -> None:
        self.runners.append(runner_process.start(self.study, self.folder, N_WORKERS, lease_s=LEASE_S))
        self.n_started += 1

    def strike(self) -> None:
        kind = self.chance.choices([*FAULTS], [*FAULTS.values()])[0]
        act = {
            "result edited": self._edit_result,
            "design edited": self._edit_design,
            "folder moved": self._move,
            "another runner": self._join,
        }.get(kind)
        if act is None:
            self.blow(kind)
        elif act():
            self.blows[kind] += 1

    def _join(self) -> bool:
        if len(self.runners) > N_RUNNERS:
            return False
        self._start()
        return True

    def _edit_result(self) -> bool:
        """Change one byte of a finished run; a study read now must name it."""
        if self.edit is not None or not (self.folder / "study.json").exists():
            return False
        ended = [run for run in read_study(self.folder).runs if run.status == "finished"]
        if not ended:
            return False
        run = self.chance.choice(ended)
        path = self.chance.choice([run.folder / "result.json", *sorted(run.folder.glob("*.csv"))])
        whole = path.read_bytes()
        place = self.chance.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if not any(str(path) in damage for damage in damaged_runs(read_study(self.folder))):
            self.unnamed.append(f"{path}, byte {place}")
        self.edit = Edit(path, whole, time.monotonic() + self.chance.uniform(0.5, 4.0))
        return True

    def _put_right(self) -> None:
        """Put the bytes back, or delete the run, which is then done again."""
        edit, self.edit = self.edit, None
        if edit is None:
            return
        if self.chance.random() < 0.5:
            edit.path.write_bytes(edit.whole)
        else:
            # In one step: a runner sees the run or none.
            away = self.folder.with_name(f"deleted-{time.monotonic_ns()}")
            edit.path.parent.rename(away)

    def _edit_design(self) -> bool:
        """Change one byte of study.json for a moment, in which no runner writes it."""
        path = self.folder / "study.json"
        if not path.exists():
            return False
        with locked(self.folder):
            whole = path.read_bytes()
            place = whole.index(b'"axes"') + 3
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                read_study(self.folder)
                self.unnamed.append(f"{path}, byte {place}")
            except CorruptFile as error:
                if str(path) not in str(error):
                    self.unnamed.append(str(error))
            time.sleep(self.chance.uniform(0.0, 0.3))
            path.write_bytes(whole)
        return True

    def _move(self) -> bool:
        """Kill every runner, and give the folder another name when nothing that they started lives."""
        if self.edit is not None or not self.folder.exists():
            return False
        families = []
        for runner in self.runners:
            try:
                families += psutil.Process(runner.pid).children(recursive=True)
                os.killpg(runner.pid, signal.SIGKILL)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        self.stopped.clear()
        if left := psutil.wait_procs(families, timeout=10)[1]:
            self.unexpected.append(f"outlived their runners: {left}")
        self.n_moves += 1
        new = self.folder.with_name(f"moved-{self.n_moves}")
        self.folder.rename(new)
        self.folder = new
        return True


def figures(soak: Mixed, whole: Path, wall_s: float, exit_status: int) -> dict[str, Any]:
    """What came of one study."""
    view = read_study(soak.folder)
    histories = [[event["event"] for event in run.history()] for run in view.runs]
    n_faults = sum(soak.blows.values())
    ended = sum(run.status == "finished" for run in view.runs)
    lost = len(view.runs) - ended + len(soak.unexpected) + len(soak.unnamed)
    return {
        "faults": dict(soak.blows),
        "tried": n_faults,
        "lost": lost,
        "survived": n_faults - lost,
        "trials": len(view.runs),
        "finished": ended,
        "runners_started": soak.n_started,
        "attempts": sum(events.count("started") for events in histories),
        "unexpected": soak.unexpected,
        "unnamed": soak.unnamed,
        "exit_status": exit_status,
        "same_bytes": final_files(soak.folder) == final_files(whole),
        "verified": verify_study(soak.folder).ok,
        "wall_s": round(wall_s),
    }


def main(folder: Path, seconds: float, seed: int) -> None:
    found = {}
    for name, (study, n_pauses) in studies(folder).items():
        place = folder / name
        place.mkdir()
        run_any_study(study, place / "whole", ProcessExecutor(workers=2))
        share_s = seconds / 3
        os.environ["METASCALE_SOAK_PAUSE_S"] = str(share_s * N_RUNNERS * N_WORKERS * 0.7 / n_pauses)
        soak = Mixed(place / "struck", share_s, random.Random(f"{seed} {name}").randrange(2**32), study)
        start = time.monotonic()
        soak.run()
        # The table: the runner that would have written it last may have been killed.
        del os.environ["METASCALE_SOAK_PAUSE_S"]
        status = run_any_study(study, soak.folder).exit_status
        found[name] = figures(soak, place / "whole", time.monotonic() - start, status)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
