"""What a configuration may say, as a typed ``RunConfig``; what of it is recorded, and what is its identity. No torch here.

``DictConfig`` goes no further than ``parse``. Mixers and measurements stay plain dictionaries (``_target_`` and options) until
bench/build.py makes them, so that composing, planning and drawing need no torch.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.data.tokenizer import vocab_named
from bench.results import RETRIES, ROOT, hash_of

CONF = ROOT / "conf"


class ConfigError(ValueError):
    """A configuration that is not possible."""


@dataclass(kw_only=True)
class SizeConfig:
    """conf/size: width D, layers, heads H, feed-forward width."""

    name: str = MISSING
    width: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    ffn: int = MISSING


@dataclass(kw_only=True)
class ModelConfig:
    """conf/model: a layer is a list of residual branches, made ``layers_factor`` times for each layer of the size.

    first: what is trained before, and whose weights the training starts from.
    """

    name: str = MISSING
    backbone: str = MISSING
    mini_batch: int = 0
    impl: str = "reference"
    layers_factor: int = 1
    layer: list[Any] = MISSING
    first: "FirstConfig | None" = None


@dataclass(kw_only=True)
class ReferenceConfig:
    """The model that per-token matching aims at, and that a budget given in tokens is counted with."""

    model: ModelConfig = field(default_factory=ModelConfig)
    size: SizeConfig = field(default_factory=SizeConfig)


@dataclass(kw_only=True)
class MatchConfig:
    """conf/match: what is held equal between models.

    method: budget (total training FLOPs, by steps) | ffn | depth (FLOPs per token, by size) | tokens (FLOPs not matched).
    convention: causal | full, how attention is counted. tolerance: largest relative mismatch of realised FLOPs.
    """

    method: str = MISSING
    convention: str = "causal"
    tolerance: float = 0.005
    multiple: int = 16
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)


@dataclass(kw_only=True)
class BudgetConfig:
    """conf/budget: total training FLOPs, or the tokens that the reference model sees; one of the two.

    min_steps: a training of fewer steps, all its stages together, is refused: it shows little but its warm-up.
    """

    name: str = MISSING
    flops: float | None = None
    tokens: int | None = None
    min_steps: int = 0


@dataclass(kw_only=True)
class DataConfig:
    """conf/data: documents, their splits and their tokenizer; see bench/data/{sources,text,tokenizer}.py.

    path: a folder, an embedded corpus, or hub:NAME. train, validation, heldout: its files by patterns, or splits of the hub's.
    vocab: ids of the tokenizer; 0: what its name says.
    column: of the text in JSON lines and Parquet. validation_share: of the training documents, set apart by the hash of their
    ids. take: of a split the first so many documents. hub: further arguments of datasets.load_dataset, the revision above all.
    content: name that the prepared corpus must have, so that the run's identity covers what is read; "": whatever is there.
    max_overlap: largest share of a held-out document's sentences in the training text. max_epochs: times that a training may
    go through its text. cache: where tokens are kept.
    """

    name: str = MISSING
    path: str = MISSING
    train: list[str] = MISSING
    heldout: list[str] = MISSING
    tokenizer: str = "bytes"
    vocab: int = 0
    column: str = "text"
    validation: list[str] = field(default_factory=list)
    validation_share: float = 0.0
    take: dict[str, int] = field(default_factory=dict)
    hub: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    max_overlap: float = 0.05
    max_epochs: float = 4.0
    cache: str = "data/cache"


@dataclass(kw_only=True)
class OptimConfig:
    """conf/optim: AdamW, linear warm-up and cosine decay.

    searched: learning rates that a search found best, by model; ``lr`` is one of them, or what all others take.
    lr_source: how they were chosen.
    """

    name: str = MISSING
    searched: dict[str, float] = field(default_factory=dict)
    lr: float = MISSING
    lr_source: str = MISSING
    final_lr: float = 1e-5
    warmup: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    batch_tokens: int = MISSING
    train_context: int = MISSING


@dataclass(kw_only=True)
class FirstConfig:
    """The first of two stages: ``model``, with parameters of the same shapes, trained by ``optim``.

    What match holds equal, FLOPs or tokens, is that of both stages together.
    more_tokens: what the second stage sees, as a share of the tokens of the first.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    more_tokens: float = MISSING


@dataclass(kw_only=True)
class TrainConfig:
    """How a training fits its device: but for rounding, no number depends on it, save those of time and memory.

    micro_batch: sequences that go through the model together, in each process, their gradients added up; 0: all.
    checkpoint: none | block: of a block only the input is kept, the rest computed again backward. compile: blocks and
    likelihood by torch.compile. graph: a micro-batch's loss and gradients as one CUDA graph. keep: how many checkpoints of an
    interrupted training stay. resume: last | last_intact: where the last of them is damaged, that is an error, or training
    goes on from the one before.
    """

    micro_batch: int = 0
    checkpoint: str = "none"
    compile: bool = False
    graph: bool = False
    keep: int = 2
    resume: str = "last"


@dataclass(kw_only=True)
class DeviceConfig:
    """conf/device: where it runs.

    dtype: what models compute in; what is trained stays float32. flop_rate: FLOP/s assumed by the planner where no run
    tells. tokens_at_once: what goes through a model together in an evaluation, which bounds its memory.
    peak_rate: FLOP/s of dense bfloat16 matrix products by its maker's data sheet.
    """

    name: str = MISSING
    type: str = MISSING
    dtype: str = "float32"
    threads: int = 1
    tokens_at_once: int = 131_072
    workers: int = 1
    flop_rate: float = MISSING
    peak_rate: float | None = None


@dataclass(kw_only=True)
class ExperimentConfig:
    """conf/experiment: what is measured.

    trains: makes a trained model. trained: needs one. timing: measures time, so it runs alone, and its identity covers the
    device and the versions. modelless: measures operations, so what makes a model is no part of its identity. extra: the group
    of optional dependencies that it needs (pyproject.toml). spread: every process of several takes part, not only the first.
    """

    name: str = MISSING
    trains: bool = False
    trained: bool = False
    timing: bool = False
    modelless: bool = False
    extra: str = ""
    spread: bool = False
    measure: Any = MISSING


@dataclass(kw_only=True)
class TrackingConfig:
    """conf/tracking: where runs are shown beside their rows; no number and no status depends on it.

    name: none | wandb. project, entity, group, tags: as W&B knows them; a group is a tier or a sweep unless given. dir: where
    W&B keeps its local files. upload: of rows (a table), results (the run's files), weights, figures. limit_s: seconds that
    a run, when it has ended, waits for W&B.
    """

    name: str = "none"
    project: str = "ttt-bench"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    dir: str = "results"
    upload: list[str] = field(default_factory=list)
    limit_s: float = 30.0


@dataclass(kw_only=True)
class RunConfig:
    """Everything that makes one run; VOLATILE names what does not belong to its identity."""

    model: ModelConfig = field(default_factory=ModelConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    results: str = "results/runs"
    refresh: str = "none"
    retry: str = "failed"
    fail_fast: bool = False
    dry: bool = False
    max_minutes: float | None = None


# What says where, when and how a run is measured, and what only explains it: neither changes its numbers.
# (How a training is run does change its time, so what measures that holds a copy of ``train``.)
UNRECORDED = ("results", "refresh", "retry", "fail_fast", "dry", "tracking", "max_minutes")
VOLATILE = (
    *(*UNRECORDED, "device.workers", "device.flop_rate", "device.peak_rate"),
    *("train", "optim.searched", "optim.lr_source", "experiment.modelless", "experiment.extra", "experiment.spread"),
    *("data.max_overlap", "data.max_epochs", "data.cache", "budget.min_steps"),
    *("model.first.optim.searched", "model.first.optim.lr_source"),
)
# What counts only where it is set, so that what was measured before it could be is still known.
OPTIONAL_DATA = ("column", "validation", "validation_share", "take", "hub", "content")
OPTIONAL = ("model.first", "match.reference.model.first", "model.first.model.first", "experiment.measure.how.graph")
OF_A_MODEL = ("model", "size", "match", "budget", "data", "optim")


def parse(config: DictConfig | ListConfig) -> RunConfig:
    """A composed configuration as typed values.

    Raises:
        ConfigError: the budget names both FLOPs and tokens or neither, or a word is not one of those possible.
    """
    run = OmegaConf.to_object(config)
    assert isinstance(run, RunConfig)
    if (run.budget.flops is None) == (run.budget.tokens is None):
        raise ConfigError(f"budget '{run.budget.name}' must give either flops or tokens: set budget.flops=… or budget.tokens=…")
    if run.optim.lr != run.optim.searched.get(run.model.name, run.optim.lr):
        run.optim.lr_source = "given by hand"
    run.optim.lr_source = source_of_rate(run.optim.lr_source, run.optim.searched, run.model.name)
    run.data.vocab = run.data.vocab or _vocab(run.data.tokenizer)
    _one_of("match.method", run.match.method, ("budget", "ffn", "depth", "tokens"))
    _one_of("match.convention", run.match.convention, ("causal", "full"))
    _one_of("train.checkpoint", run.train.checkpoint, ("none", "block"))
    if run.train.micro_batch < 0:
        raise ConfigError(
            f"train.micro_batch={run.train.micro_batch} is not possible; give sequences, or 0 for the whole batch"
        )
    _one_of("train.resume", run.train.resume, ("last", "last_intact"))
    if run.train.keep < 1:
        raise ConfigError(f"train.keep={run.train.keep} is not possible; keep 1 checkpoint or more")
    _one_of("refresh", run.refresh, ("none", "stale", "all"))
    _one_of("retry", run.retry, tuple(RETRIES))
    _one_of("tracking.name", run.tracking.name, ("none", "wandb"))
    for what in run.tracking.upload:
        _one_of("tracking.upload", what, ("rows", "results", "weights", "figures"))
    _one_of("device.dtype", run.device.dtype, ("float32", "bfloat16", "float64"))
    return run


def source_of_rate(told: str, searched: Collection[str], model: str) -> str:
    """How a model's learning rate was chosen: a search of others' rates says nothing of one that it left out."""
    return told if not searched or model in searched else "not searched for this model"


def _vocab(tokenizer: str) -> int:
    vocab = vocab_named(tokenizer)
    if vocab is None:
        raise ConfigError(f"data.tokenizer={tokenizer} does not say how many ids it has; set data.vocab=…")
    return vocab


def _one_of(key: str, value: str, possible: Sequence[str]) -> None:
    if value not in possible:
        raise ConfigError(f"{key}={value} is not possible; choose from: {', '.join(possible)}")


def explain(error: Exception) -> str:
    """What Hydra says of a wrong choice or value, without its search path."""
    parts = [str(error).split("Config search path")[0].strip()]
    if error.__cause__ is not None:
        parts.append(str(error.__cause__).strip())
    return "\n".join(parts)


def record(run: RunConfig) -> dict[str, Any]:
    """The resolved configuration: what config.yaml holds."""
    return _without(UNRECORDED, asdict(run))


def from_record(recorded: Mapping[str, Any]) -> RunConfig:
    """The run whose ``record`` was read back; what is not recorded is as it is by default.

    Raises:
        ConfigError: it is not a record of this version's.
    """
    try:
        return parse(OmegaConf.merge(OmegaConf.structured(RunConfig), dict(recorded)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"a recorded configuration does not fit this version: {explain(error)}") from error


def identity(run: RunConfig) -> dict[str, Any]:
    """What the hash of a run covers: all of it that decides its numbers."""
    usual = DataConfig()
    unset = [f"data.{key}" for key in OPTIONAL_DATA if getattr(run.data, key) == getattr(usual, key)]
    node = asdict(run)
    unset += [key for key in OPTIONAL if not _at(node, key)]
    return _without((*VOLATILE, *unset, *(OF_A_MODEL if run.experiment.modelless else ())), node)


def _at(node: Any, path: str) -> Any:
    """What stands at ``path``; None where its parent is None, or has no such part."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _without(unwanted: Sequence[str], node: dict[str, Any], path: str = "") -> dict[str, Any]:
    kept = {key: value for key, value in node.items() if path + key not in unwanted}
    return {
        key: _without(unwanted, value, f"{path}{key}.") if isinstance(value, dict) else value for key, value in kept.items()
    }


def training(run: RunConfig) -> RunConfig:
    """The run that trains the model which ``run`` measures."""
    options = yaml.safe_load((CONF / "experiment" / "train.yaml").read_text())
    return replace(deepcopy(run), experiment=ExperimentConfig(**options))


def first_training(run: RunConfig, first: FirstConfig, budget: BudgetConfig) -> RunConfig:
    """The first stage of a training in two, under its part of the budget; no held-out text is read."""
    found = replace(training(run), model=deepcopy(first.model), optim=deepcopy(first.optim), budget=budget)
    found.experiment.measure["heldout"] = False
    return found


def run_id(run: RunConfig, environment: dict[str, str]) -> str:
    """{model}-{size}-{budget}-s{seed}-{hash}; ``environment`` (device, versions) counts where times are measured.

    Without a model it is {dtype}-s{seed}-{hash}.
    """
    digest = hash_of([identity(run), environment if run.experiment.timing else {}])
    if run.experiment.modelless:
        return f"{run.device.dtype}-s{run.seed}-{digest}"
    return f"{run.model.name}-{run.size.name}-{run.budget.name}-s{run.seed}-{digest}"
