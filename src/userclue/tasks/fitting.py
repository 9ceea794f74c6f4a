"""How a model is fitted to a task, whatever the model: early stopping on the log-loss of the validation part."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from userclue.config import FinetuneSettings
from userclue.data.batches import BatchStream
from userclue.data.counts import item_events
from userclue.data.splits import Instances
from userclue.data.store import Dataset
from userclue.data.transitions import Chain
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.metrics.blocks import InnerProducts, Rows
from userclue.metrics.ranking import NOT_RETRIEVABLE, full_ranking, ranking_metrics
from userclue.tasks.base import FittedModel, Task, Training
from userclue.tasks.cold_start import ColdStart, ColdStartModel
from userclue.tasks.frozen import Frozen
from userclue.tasks.profiling import Profiling, ProfilingModel
from userclue.tasks.registry import MODELS
from userclue.tasks.sequential import Sequential
from userclue.tasks.wide import REPEATS, SHARES, UNTUNED_SHARE, Classifier, Recommender, Transitions, next_probabilities, one_standard_error
from userclue.train.journal import Journal, Watch
from userclue.train.loop import Training as Run
from userclue.train.loop import device_of

Bagged = Classifier | Recommender
INIT, BATCHES = 3, 4  # streams of the seed
_JUDGED, _JUDGED_CELLS = 4_000, 1 << 26  # validation instances that the weight of the transitions is chosen on, at most


def unfitted(
    task: Task, encoder: UserEncoder, system: str, settings: FinetuneSettings, dataset: Dataset, generator: torch.Generator
) -> FittedModel:
    """`encoder` under a new head for `task`, before the first step. `system` is its name in tables."""
    facts = {**task.facts(), "mode": settings.mode, "system": system, "settings": settings.model_dump()}
    model = MODELS[task.name](encoder, task.head(encoder, settings, generator), facts)
    if isinstance(model, ProfilingModel) and isinstance(task, Profiling):
        model.parts = task.parts(dataset)
    if isinstance(model, ColdStartModel) and isinstance(task, ColdStart):
        model.targets, model.parts = task.targets, task.parts
    return model


def fit_model(model: FittedModel, task: Task, settings: FinetuneSettings, watch: Watch, smallest: int = 1) -> None:
    """Train `model` on the training part and keep the weights of the best epoch; rows, steps and parameters are written to it.

    smallest: users that a batch needs.
    Raises UsageError when the loss is no longer a number.
    """
    _refuse_other_wide_part(task, settings)
    bag = _bag(model, task, settings.seed) if settings.wide == "bag" and isinstance(task, Profiling | ColdStart) else None
    frozen = None
    if isinstance(bag, Classifier) and isinstance(task, Profiling) and settings.mode != "scratch" and model.encoder.facts.get("pretrain"):
        frozen = Frozen(model, task, bag)
    journal = Journal((watch.row,))
    stopping = _EarlyStopping(model, task, settings, journal)
    positions = settings.positions if task.name == "sequential" else "last"
    # Read out at the last item, every place of a history is trained as it is read; UR would see the end of each history alone.
    whole = positions == "all" and model.encoder.config.readout == "item"
    run = Run(
        Training(model, settings.mode, task.ignored_target, positions, settings.item_loss),
        BatchStream(
            source=task.whole if whole and isinstance(task, Sequential) else task.source,
            n_sequences=task.n_train,
            batch_size=settings.batch_size,
            max_len=model.encoder.config.max_len,
            seed=int(np.random.SeedSequence([settings.seed, BATCHES]).generate_state(1)[0]),
            smallest=smallest,
        ),
        settings,
        journal=journal,
        end_of_epoch=stopping,
    )
    trained: list[nn.Parameter] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.facts["trained_parameters"] = sum(parameter.numel() for parameter in trained)
    model.facts["total_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    watch.started(run)
    progress = run.run()
    stopping.restore()
    model.to(device_of("cpu"))
    if bag is not None and isinstance(task, Profiling | ColdStart):
        add_wide_part(model, task, bag, frozen)
    if settings.wide == "transitions" and isinstance(task, Sequential):
        add_transitions(model, task)
    model.requires_grad_(True)
    model.rows = journal.rows
    model.facts["steps"] = progress.step
    model.facts["best_epoch"] = stopping.best_epoch


def add_wide_part(model: FittedModel, task: Profiling | ColdStart, bag: Bagged, frozen: Frozen | None = None) -> None:
    """Fit a wide part and weigh it against the network: the greatest share, of SHARES, that the validation part gives no reason to lower.

    Judged by log-loss for profiling and reciprocal rank for cold start. The network has to better the wide part by more than the
    standard error of the difference (the one-standard-error rule, Breiman et al. 1984, section 3.4.3): a few hundred validation users
    would otherwise choose by chance. Both together have to better `frozen` in the same sense, or that is what the model becomes.
    """
    wide = bag.fit(task.train, task.valid)
    model.wide, share, losses = wide, UNTUNED_SHARE, np.zeros(0)
    tensors = [getattr(module, name).detach() for module in (wide, model.head) for name in ("weight", "bias")]
    if len(task.valid):
        inputs = task.valid.inputs
        features, vectors = wide.features(inputs), model.encoder.vectors(inputs)  # the same for every share
        faults = []
        for one in SHARES:
            both = np.concatenate([one * features, (1 - one) * vectors], axis=1)
            products = InnerProducts(both.__getitem__, torch.cat(tensors[::2], dim=1), one * tensors[1] + (1 - one) * tensors[3])
            faults.append(_log_losses(products, task.valid) if isinstance(task, Profiling) else -_reciprocal(products, task.valid, False))
        chosen = one_standard_error(np.stack(faults))
        share, losses = SHARES[chosen], faults[chosen]
    for tensor, weight in zip(tensors, (share, share, 1 - share, 1 - share), strict=True):
        tensor.mul_(weight)
    model.facts["wide_share"] = share
    if frozen is not None:
        model.facts["frozen_vectors"] = not len(losses) or one_standard_error(np.stack([frozen.losses, losses])) == 0
        if model.facts["frozen_vectors"]:
            frozen.install(model)
            del model.facts["wide_share"]


def _bag(model: FittedModel, task: Profiling | ColdStart, seed: int) -> Bagged:
    kind = Classifier if isinstance(task, Profiling) else Recommender
    return kind(task.histories, task.outputs, len(model.vocabulary), seed)


def add_transitions(model: FittedModel, task: Sequential) -> None:
    """Count which item follows which, and blend that in: the least weight, of SHARES, that the validation part gives no reason to raise.

    Then how much likelier or less likely an item is for being in the history: the mildest factor, of REPEATS, in the same sense.
    Judged by reciprocal rank (the factor among all items), on as many validation instances as _JUDGED_CELLS scores allow.
    """
    few = max(100, min(_JUDGED, _JUDGED_CELLS // task.outputs))
    chosen = np.sort(np.random.default_rng(task.seed).permutation(len(task.valid))[:few])
    judged, chain = task.valid.take(chosen), Chain.learned(task.history, task.outputs)
    network, followers = next_probabilities(model.scores(judged.inputs)), chain.probabilities(judged.inputs)
    weights, faults = sorted(SHARES), []
    for weight in weights[:-1]:  # the chain alone is a baseline
        scores = (1 - weight) * network + weight * followers
        faults.append(-_reciprocal(scores.__getitem__, judged, True))
    weight = weights[one_standard_error(np.stack(faults))] if len(judged) else 0.0
    both, held, faults = (1 - weight) * network + weight * followers, item_events(judged.inputs), []
    for repeat in REPEATS:
        scores = both.copy()
        scores[held] *= repeat
        faults.append(-_reciprocal(scores.__getitem__, judged, False))
    repeat = REPEATS[one_standard_error(np.stack(faults))] if len(judged) else 1.0
    model.wide = Transitions.of(chain, weight, repeat)
    model.facts.update(wide_share=weight, repeat_factor=repeat)


def _refuse_other_wide_part(task: Task, settings: FinetuneSettings) -> None:
    fitting = "transitions" if isinstance(task, Sequential) else "bag"
    if settings.wide not in ("none", fitting):
        raise UsageError(f"wide={settings.wide} does not belong to {task.name}; set wide to {fitting} or none")


def _log_losses(products: InnerProducts, part: Instances) -> np.ndarray:
    assert products.bias is not None
    logits = torch.from_numpy(products.vectors(np.arange(len(part)))) @ products.items.T + products.bias
    return nn.functional.cross_entropy(logits.double(), torch.from_numpy(part.targets), reduction="none").numpy()


def _metric(model: FittedModel, task: Task) -> float:
    """Accuracy of a profile, MRR@10 of a ranking on the validation part."""
    if isinstance(task, Profiling):
        return float((model.scores(task.valid.inputs).argmax(axis=1) == task.valid.targets).mean())
    return float(_reciprocal_ranks(model, task).mean())


def _reciprocal_ranks(model: FittedModel, task: Task) -> np.ndarray:
    return _reciprocal(model.scorer(task.valid.inputs), task.valid, isinstance(task, Sequential))


def _reciprocal(score: Rows | InnerProducts, part: Instances, sequential: bool) -> np.ndarray:
    """Reciprocal rank@10 of each instance; at the next item as `recommend` answers, without what the history holds.

    Where most targets are repeats, among all items after all.
    """
    found = full_ranking(score, len(part), part.targets, part.inputs if sequential else None)
    unseen = found.ranks_unseen
    new = unseen is not None and np.count_nonzero(unseen != NOT_RETRIEVABLE) * 2 >= len(part)
    return ranking_metrics(unseen if unseen is not None and new else found.ranks_all)["mrr@10"]


class _EarlyStopping:
    """Validates at the end of each epoch, keeps the best weights, and stops after `patience` epochs without a better one."""

    def __init__(self, model: FittedModel, task: Task, settings: FinetuneSettings, journal: Journal) -> None:
        self.model, self.task, self.settings, self.journal = model, task, settings, journal
        self.best, self.best_epoch = float("inf"), -1
        self.best_state: dict[str, Tensor] = {}

    def __call__(self, epoch: int, step: int) -> bool:
        loss = self.model.mean_loss(self.task.valid)
        row: dict[str, float] = {"step": step, "epoch": epoch, "valid_loss": loss}
        if not np.isfinite(loss):
            raise UsageError(f"step {step}: the validation loss is {loss}; lower lr or set clip_norm")
        fault = loss
        if self.settings.stop_on == "metric" and len(self.task.valid):
            row["valid_metric"] = _metric(self.model, self.task)
            fault = -row["valid_metric"]
        self.journal.log(row)
        if fault < self.best:
            self.best, self.best_epoch = fault, epoch
            self.best_state = copy.deepcopy(self.model.state_dict())
        return epoch + 1 >= self.settings.min_epochs and epoch - self.best_epoch >= self.settings.patience

    def restore(self) -> None:
        if self.best_state:
            self.model.load_state_dict(self.best_state)
