"""The trials of a search, shared by the processes that work on it, in Optuna's storage.

A trial is held by a lock of the process that runs it. When that process is killed the kernel lets
go of it: another one, or the same command started again, marks the trial as failed and puts its
values back into the queue, to go on in the same run directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rljax.errors import UserError

STORAGE_FILE, LOCKS, TRIALS = "study.db", "locks", "trials"
PLACE, ATTEMPT, REASON = "place", "attempt", "reason"
ATTEMPTS = 3
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


class Trials:
    """The trials of a search.

    Args:
      directory: of the search; trials stand in trials/PLACE below it.
      storage: an SQLAlchemy URL; None: study.db in the directory.
      direction: what the best value is.
      wanted: trials to finish, all processes together.
      startup: trials drawn at random before TPE, and finished before any is pruned.
      warmup: steps of a trial in which it is not pruned.
      seed: of the sampler; trial n draws with a seed made of it and n, so that a search that is
        stopped and started again draws what it would have drawn.

    Raises UserError where the storage cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        *,
        storage: str | None,
        direction: Literal["maximize", "minimize"],
        wanted: int,
        startup: int,
        warmup: int,
        seed: int,
    ) -> None:
        self.directory, self.wanted = directory, wanted
        self._startup, self._seed = startup, seed
        (directory / LOCKS).mkdir(parents=True, exist_ok=True)
        self._held: dict[int, TextIO] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = storage or f"sqlite:///{(directory / STORAGE_FILE).absolute()}"
        try:
            with self._alone():
                self.study = optuna.create_study(
                    storage=url,
                    study_name=directory.name,
                    direction=direction,
                    load_if_exists=True,
                    pruner=optuna.pruners.MedianPruner(max(startup // 2, 1), warmup),
                )
        except Exception as error:  # of SQLAlchemy, of its drivers, of Optuna's migrations
            raise UserError(f"the storage {url} cannot be opened: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes of this search from drawing or counting meanwhile."""
        with (self.directory / LOCKS / "search").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _take(self, number: int) -> bool:
        """Hold a trial, unless a process that is alive does."""
        file = (self.directory / LOCKS / f"trial-{number}").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._held[number] = file
        return True

    def _release(self, number: int) -> None:
        file = self._held.pop(number, None)
        if file is not None:
            file.close()

    def _retry_killed(self) -> None:
        """Mark trials whose process is gone as failed, and put their values into the queue."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in self._held or not self._take(trial.number):
                continue
            self._release(trial.number)
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._queue_again(trial, trial.user_attrs.get(ATTEMPT, 1) + 1)

    def _queue_again(self, trial: FrozenTrial | Trial, attempt: int) -> None:
        if attempt <= ATTEMPTS and trial.params:
            place = trial.user_attrs.get(PLACE, place_of(trial.number))
            self.study.enqueue_trial(trial.params, {PLACE: place, ATTEMPT: attempt})

    def draw(self, suggest: Callable[[Trial], None]) -> Trial | None:
        """Begin the next trial, its values drawn by `suggest`; None where there are enough.

        TPE counts what other processes are trying as bad, so that they try something else.
        """
        with self._alone():
            self._retry_killed()
            trials = self.study.get_trials(deepcopy=False)
            under_way = sum(t.state is TrialState.RUNNING for t in trials)
            if self.counted(trials) + under_way >= self.wanted:
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.sampler = optuna.samplers.TPESampler(
                    n_startup_trials=self._startup,
                    multivariate=True,
                    constant_liar=True,
                    seed=(self._seed * 1_000_003 + len(trials)) % 2**32,
                )
            trial = self.study.ask()
            self._take(trial.number)
            suggest(trial)
            if PLACE not in trial.user_attrs:
                trial.set_user_attr(PLACE, place_of(trial.number))
            return trial

    def counted(self, trials: list[FrozenTrial] | None = None) -> int:
        """Count what is finished: measured, pruned, or failed by itself."""
        found = self.study.get_trials(deepcopy=False) if trials is None else trials
        own = [t for t in found if t.state is TrialState.FAIL and REASON in t.user_attrs]
        return sum(t.state in _COUNTED for t in found) + len(own)

    def finish(self, trial: Trial, value: float) -> None:
        """Say what a trial came to."""
        self._tell(trial, value, TrialState.COMPLETE)

    def prune(self, trial: Trial) -> None:
        """Say that a trial was given up."""
        self._tell(trial, None, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """Say that a trial cannot be measured: its config is impossible, or its run broke."""
        trial.set_user_attr(REASON, reason)
        self._tell(trial, None, TrialState.FAIL)

    def stop(self, trial: Trial) -> None:
        """Say that a trial was stopped from outside: it goes on when the search does."""
        self._tell(trial, None, TrialState.FAIL)
        self._queue_again(trial, trial.user_attrs.get(ATTEMPT, 1))

    def _tell(self, trial: Trial, value: float | None, state: TrialState) -> None:
        with self._alone():
            self.study.tell(trial, value, state)
            self._release(trial.number)

    def path(self, trial: Trial | FrozenTrial) -> Path:
        """Return the directory of a trial."""
        return self.directory / TRIALS / trial.user_attrs.get(PLACE, place_of(trial.number))

    def rows(self) -> list[dict[str, Any]]:
        """Return every trial as JSON holds it."""
        return [
            {
                "number": trial.number,
                "place": trial.user_attrs.get(PLACE, place_of(trial.number)),
                "state": trial.state.name.lower(),
                "value": trial.value if trial.state is TrialState.COMPLETE else None,
                "values": dict(trial.params),
                "reason": trial.user_attrs.get(REASON, ""),
                "seconds": None if trial.duration is None else trial.duration.total_seconds(),
                "last_step": trial.last_step,
            }
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING
        ]

    def best(self) -> FrozenTrial | None:
        """Return the best measured trial; None while there is none."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.study.best_trial if done else None

    def importances(self) -> dict[str, float]:
        """Say which share of the differences each field explains (PED-ANOVA); {} where too few."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < 4 or len({trial.value for trial in done}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few trials say little
            found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}


def place_of(number: int) -> str:
    """Return the folder of a trial that was not begun before."""
    return f"{number:04d}"
