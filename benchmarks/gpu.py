"""Everything that ten minutes of a CUDA device can tell, by one command; GPU.md says how to use it.

This process imports nothing but the standard library, so that nothing on the device can hurt it. Every stage is a
process of its own with a time limit. It writes its JSON after every case and its log as it goes, and the page is
written again after every stage, so that nothing is lost whatever ends the run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from gpu_host import assembler, describe, run_machine, run_tests
from gpu_record import UNUSABLE, WRONG_USE, mark_dead, read_json, write_json, write_page

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE.parent / "src"), str(HERE.parent / "tests")]
"""Nothing need be installed: the package and what its tests share come from this tree."""
SLOWER = 4
TAIL = 20
"""Lines of a log that the page shows."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a run, in seconds of a device; a processor has ``SLOWER`` times as many.

    Attributes:
        title: on the page.
        limit: of the stage, all its processes together; None takes all that is left.
        case: of one of its cases, after which the process counts as hung.
        least: what must be left for it to start.
    """

    title: str
    limit: float | None
    case: float
    least: float


STAGES = {
    "machine": Stage(title="Machine", limit=45, case=40, least=5),
    "networks": Stage(title="Whole networks", limit=120, case=60, least=15),
    "speed": Stage(title="Speed and memory", limit=150, case=75, least=20),
    "profile": Stage(title="Where the time goes", limit=45, case=40, least=15),
    "tests": Stage(title="Tests of the kernels", limit=90, case=90, least=15),
    "train": Stage(title="Training", limit=None, case=float("inf"), least=15),
}
"""In this order: what is worth most comes first."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=_above_zero, default=8, help="for everything")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for page, JSON, logs and weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks; on a CPU in Triton's interpreter")
    parser.add_argument("--stages", type=_names, default=list(STAGES), help=f"some of {','.join(STAGES)}")
    parser.add_argument(
        "--limit", type=_above_zero, default=float("inf"), help="seconds for a stage, where its own are more"
    )
    parser.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="official=PATH", help="a checkout to compare"
    )
    parser.add_argument("--train", action="append", default=[], metavar="RECIPE", help="a recipe; repeatable")
    parser.add_argument("--data", type=Path, help="data.root of the recipes")
    parser.add_argument("--stage", choices=(*STAGES, "forward"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.device == "cpu" and not found.tiny:
        parser.error("--device cpu runs kernels in Triton's interpreter, which only --tiny networks bear")
    if found.train and found.data is None:
        parser.error("--train needs --data, the folder of its data")
    if found.data is not None and not found.data.is_dir():
        parser.error(f"--data: there is no folder {found.data}")
    if found.out.exists() and not found.out.is_dir():
        parser.error(f"--out must be a folder, {found.out} is none")
    return found


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:  # "nan" neither
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _peer(text: str) -> str:
    name, _, path = text.partition("=")
    if not name or not Path(path).expanduser().is_dir() or not path:
        raise argparse.ArgumentTypeError(f"wants official=FOLDER, the folder of a checkout, got {text!r}")
    return text


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in names]


class Run:
    """All stages of one command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out.resolve()
        self.began = time.monotonic()
        self.summary: dict[str, dict[str, object]] = {}
        self.environment, self.assembler = self._environment()
        (self.out / "stages").mkdir(parents=True, exist_ok=True)

    def _environment(self) -> tuple[dict[str, str], str]:
        found = dict(os.environ)
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [*PATHS, found.get("PYTHONPATH", "")]))
        if self.options.device == "cpu":
            # Read when a kernel is defined; a device that is there stays out of it.
            # One thread: tiny maps leave others nothing but to wait for each other, which a busy machine makes long.
            found |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        chosen, words = assembler()
        if chosen is not None:
            found["TRITON_PTXAS_PATH"] = str(chosen)
        return found, words

    def left(self) -> float:
        return 60 * self.options.minutes - (time.monotonic() - self.began)

    def all_stages(self) -> int:
        """Exit status: 0 even where stages failed, since the page says so; not for wrong use."""
        for name in self.options.stages:
            for file in (self._json(name), self._log(name)):
                file.unlink(missing_ok=True)
        self._write()
        for name in self.options.stages:
            self.summary[name] = _said("cut", "the run was interrupted", time.monotonic())
            try:
                self.summary[name] = self._stage(name, STAGES[name])
            finally:
                self._write()
            said = self.summary[name]
            print(f"{name}: {said['state']}{said['why'] and ': '}{said['why']} ({said['seconds']} s)", flush=True)
            if said.get("status") == WRONG_USE:
                print("\n".join(self._tail(name)), file=sys.stderr)
                return WRONG_USE
        print(f"page: {self.out / 'gpu.md'}")
        return 0

    def _json(self, name: str) -> Path:
        return self.out / "stages" / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self.out / "stages" / f"{name}.log"

    def _stage(self, name: str, stage: Stage) -> dict[str, object]:
        """Run a stage to its end or its limit; a process that dies is followed by one that goes on behind its case."""
        began, left = time.monotonic(), self.left()
        if name == "train" and not self.options.train:
            return _said("skipped", "no recipe was named by --train", began)
        least = 5 if self.options.tiny else stage.least
        if left < least:
            return _said("skipped", f"{max(left, 0):.0f} s are left and it takes {least:.0f}", began)
        slower = SLOWER if self.options.device == "cpu" else 1
        limit = min(left, self.options.limit, float("inf") if stage.limit is None else slower * stage.limit)
        deaths: list[str] = []
        while True:
            rest = began + limit - time.monotonic()
            status, why = self._process(name, rest, min(slower * stage.case, self.options.limit))
            if status == 0:
                break
            dead = mark_dead(self._json(name), why)
            if status == UNUSABLE:
                why = f"{why}: the device answered no more"
            deaths.append(f"{dead}: {why}" if dead else why)
            # A process that died in no case would die again.
            goes_on = status == UNUSABLE or dead
            if not goes_on or began + limit - time.monotonic() < least:
                state = "cut" if self.left() < 1 else "failed"
                return _said(state, "; ".join(deaths), began, status=status, tail=self._tail(name))
        cases = read_json(self._json(name)).get("cases", {})
        failed = [case for case, entry in cases.items() if entry["state"] == "failed"]
        if failed or deaths:
            why = "; ".join(deaths) or f"{len(failed)} of {len(cases)} cases failed"
            return _said("failed", why, began, tail=self._tail(name))
        skipped = [entry["why"] for entry in cases.values() if entry["state"] == "skipped"]
        if cases and len(skipped) == len(cases):
            return _said("skipped", skipped[0], began)
        return _said("ok", f"{len(skipped)} of {len(cases)} cases skipped" if skipped else "", began)

    def _process(self, name: str, limit: float, case_limit: float) -> tuple[int, str]:
        """One process of a stage: its exit status, and what that means."""
        options = self.options
        command = [sys.executable, str(HERE / "gpu.py"), "--stage", name, "--seconds", f"{limit:.1f}"]
        command += ["--out", str(self.out), "--device", options.device, *(["--tiny"] if options.tiny else [])]
        command += [word for peer in options.peer for word in ("--peer", peer)]
        command += [word for recipe in options.train for word in ("--train", recipe)]
        command += ["--data", str(options.data.resolve())] if options.data else []
        began = time.monotonic()
        with self._log(name).open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True
            )
            try:
                while process.poll() is None:
                    now = time.monotonic() - began
                    if now > limit:
                        return _kill(process), f"stopped at its limit after {now:.0f} s"
                    if now > case_limit and self._silence(name) > case_limit:
                        return _kill(process), f"hung: nothing new in {case_limit:.0f} s"
                    time.sleep(0.1)
            finally:
                _kill(process)
        status = process.returncode
        return status, f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def _silence(self, name: str) -> float:
        """Seconds since a stage wrote its JSON."""
        try:
            return time.time() - self._json(name).stat().st_mtime
        except OSError:
            return float("inf")

    def _tail(self, name: str) -> list[str]:
        try:
            return self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        except OSError:
            return []

    def _write(self) -> None:
        content = {"about": describe(self.options, self.assembler, self.environment), "stages": self.summary}
        write_json(self.out / "gpu.json", content)
        cases = {name: read_json(self._json(name)).get("cases", {}) for name in self.options.stages}
        write_page(self.out / "gpu.md", content, {name: stage.title for name, stage in STAGES.items()}, cases)


def _said(state: str, why: str, began: float, **more: object) -> dict[str, object]:
    return {"state": state, "why": why, "seconds": round(time.monotonic() - began, 1), **more}


def _kill(process: subprocess.Popen[bytes]) -> int:
    """End a stage and all that it started; gently first, so that training can save."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode or -signal.SIGKILL


def _end_with_parent(parent: int) -> None:
    """Ends a stage, and all that it started, once nobody waits for it: a killed run must not keep the device."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for number in (signal.SIGTERM, signal.SIGKILL):  # gently first, so that training can save
        os.killpg(0, number)
        time.sleep(3)


def main() -> int:
    options = parse()
    if options.stage:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        if options.stage in ("machine", "tests"):
            return {"machine": run_machine, "tests": run_tests}[options.stage](options)
        # torch and the package are for the stages' own processes.
        sys.path[:0] = PATHS
        from gpu_stages import run_stage

        return run_stage(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    return Run(options).all_stages()


if __name__ == "__main__":
    sys.exit(main())
