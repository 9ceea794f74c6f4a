"""One training loop for every job. It knows no model: it takes a module that turns a batch into a Step."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

from userclue.config import TrainSettings
from userclue.data.batches import BatchStream
from userclue.errors import Interrupted, UsageError
from userclue.train.checkpoint import Checkpoints, Progress
from userclue.train.feed import feed
from userclue.train.interrupt import StopRequest, stop_on_signal
from userclue.train.journal import Journal, Row
from userclue.train.optim import build_optimizer, set_rate
from userclue.train.rows import AdamWithRows, gradients
from userclue.train.step import Follower, Step


def device_of(name: str) -> torch.device:
    """`auto`: the GPU where there is one; UsageError when the named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name}; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name} was asked for, but PyTorch sees no GPU here; use --device cpu")
    return device


def seeded_generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose stream depends on `key` alone, such as (seed, epoch, step, rank)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


class Training:
    """A run: module, batches and settings, and what happens at logged steps and at the end of an epoch.

    `probe` adds numbers to each logged row. `end_of_epoch(epoch, step)` may log, and returns True to stop the run.
    """

    def __init__(
        self,
        module: nn.Module,
        stream: BatchStream,
        settings: TrainSettings,
        *,
        journal: Journal,
        log_every: int = 50,
        probe: Callable[[], dict[str, float]] | None = None,
        end_of_epoch: Callable[[int, int], bool] | None = None,
        checkpoints: Checkpoints | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.module, self.stream, self.settings, self.journal = module, stream, settings, journal
        self.log_every, self.probe, self.end_of_epoch = log_every, probe, end_of_epoch
        self.checkpoints, self.checkpoint_seconds = checkpoints, checkpoint_seconds
        self.device = device_of(settings.device)
        module.to(self.device)
        self.optimizer = build_optimizer(module, settings)
        self._parameters = list(module.parameters())
        self._tables = self.optimizer.row_parameters() if isinstance(self.optimizer, AdamWithRows) else []
        self._followers = [part for part in module.modules() if isinstance(part, Follower)]
        self.progress = Progress()
        self._users = 0
        self._stopped = False

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run where that is known beforehand (not under a budget of minutes)."""
        if self.settings.steps is not None:
            return self.settings.steps
        return None if self.settings.epochs is None else self.settings.epochs * self.stream.steps_per_epoch

    def resume(self) -> None:
        """Take up the latest whole checkpoint, or start afresh when there is none."""
        if self.checkpoints is not None:
            self.progress = self.checkpoints.restore(self.module, self.optimizer)
            self.journal.rows = list(self.progress.rows)

    def run(self) -> Progress:
        """Train until the budget is spent or `end_of_epoch` says stop.

        Raises Interrupted on SIGINT or SIGTERM (state saved), UsageError when the loss is no longer a number.
        """
        self._started = self._logged_at = self._saved_at = time.perf_counter() - self.progress.seconds
        self._logged_at = self._saved_at = time.perf_counter()
        self.module.train()
        with stop_on_signal() as request, self._tf32():
            while not self._done():
                self._epoch(request)
        self.progress.seconds = self._elapsed()
        return self.progress

    def _epoch(self, request: StopRequest) -> None:
        progress = self.progress
        made = self.stream.epoch(progress.epoch, skip=progress.step_in_epoch)
        # Closed at once on an error, whose traceback would keep the feeding thread alive.
        with closing(feed(made, self.device)) as batches:
            for batch in batches:
                share_done = self._share_done()
                set_rate(self.optimizer, self.settings, share_done)
                for part in self._followers:
                    part.follow(share_done)
                generator = seeded_generator(self.device, self.settings.seed, progress.epoch, progress.step_in_epoch, 0)
                with self._autocast():
                    step = self.module(batch, generator)
                self._update(step)
                progress.step += 1
                progress.step_in_epoch += 1
                self._users += len(batch)
                done = self._done()
                if progress.step % self.log_every == 0 or done or progress.step == 1:
                    self._log(step)
                self._save_if_due(request)
                if done:
                    break
        if progress.step_in_epoch >= self.stream.steps_per_epoch or self._done():
            if self.end_of_epoch is not None and self.end_of_epoch(progress.epoch, progress.step):
                self._stopped = True
            progress.epoch += 1
            progress.step_in_epoch = 0

    def _update(self, step: Step) -> None:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        step.loss.backward()
        found = gradients(self._tables if self.settings.clip_norm is None else self._parameters)
        if self.settings.clip_norm is not None:
            norm = nn.utils.get_total_norm(found)
            torch._foreach_mul_(found, (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()

    def _log(self, step: Step) -> None:
        loss = float(step.loss.detach())
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self._refuse_broken_weights()
        now = time.perf_counter()
        row: Row = {
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "seconds": round(self._elapsed(), 3),
            "loss": loss,
            "gradient_norm": float(nn.utils.get_total_norm(gradients(self._parameters))),
            "users_per_second": round(self._users / max(now - self._logged_at, 1e-9), 1),
            **step.metrics(),
            **(self.probe() if self.probe is not None else {}),
        }
        self.module.train()
        self.journal.log(row)
        # The probe's own time is not training time: the clock of the next row starts after it.
        self._users, self._logged_at = 0, time.perf_counter()

    def _diverged(self, what: str) -> UsageError:
        kept = "; the last good checkpoint is kept" if self.checkpoints is not None else ""
        return UsageError(f"step {self.progress.step}: {what}; lower lr or set clip_norm{kept}")

    def _refuse_broken_weights(self, all_rows: bool = False) -> None:
        """Between logged rows nobody looks at the loss, so neither a checkpoint nor a result is made of weights that hold NaN.

        A table that is updated by row is read only for a checkpoint, which reads it anyway; else its optimiser has kept watch.
        """
        skipped = set() if all_rows else {id(table) for table in self._tables}
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.module.parameters() if id(parameter) not in skipped)
        if not finite or (isinstance(self.optimizer, AdamWithRows) and self.optimizer.broken_rows()):
            raise self._diverged("the weights are no longer numbers")

    def _save_if_due(self, request: StopRequest) -> None:
        if request.received is None and (
            self.checkpoints is None or time.perf_counter() - self._saved_at < self.checkpoint_seconds or self._done()
        ):
            return
        if self.checkpoints is not None:
            self._refuse_broken_weights(all_rows=True)
            self.progress.seconds, self.progress.rows = self._elapsed(), self.journal.rows
            self.checkpoints.save(self.module, self.optimizer, self.progress)
            self._saved_at = time.perf_counter()
        if request.received is not None:
            saved = "state saved, go on with --resume" if self.checkpoints is not None else "nothing was written"
            raise Interrupted(f"stopped by {request.received} at step {self.progress.step}; {saved}")

    def _done(self) -> bool:
        total = self.total_steps
        if total is not None:
            return self._stopped or self.progress.step >= total
        return self._stopped or self._elapsed() >= (self.settings.minutes or 0) * 60

    def _share_done(self) -> float:
        total = self.total_steps
        return self.progress.step / total if total is not None else self._elapsed() / ((self.settings.minutes or 1) * 60)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def _tf32(self) -> Iterator[None]:
        """With precision tf32, products of float32 matrices may be rounded to 11 bits first, where the GPU can."""
        before = torch.get_float32_matmul_precision()
        if self.settings.precision == "tf32":
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
