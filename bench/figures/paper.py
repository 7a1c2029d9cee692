"""The figures and tables of arXiv 2407.04620 that the project redraws, the tier that makes each, and what the paper found."""

from collections.abc import Mapping
from dataclasses import dataclass

# Numbers as in the latest arXiv version.
PAPER_TIERS: Mapping[str, str] = {
    "2L": "paper",
    "2R": "paper",
    "4": "small",
    "7L": "ablation",
    "7R": "ablation",
    "Table 1": "ablation",
    "10": "paper",
    "11": "paper",
    "12": "gpu",
    "14": "small",
    "15": "paper",
    "16": "paper",
}
CONTENT: Mapping[str, str] = {
    "2L": "perplexity against training FLOPs, Pile 8k, 350M to 1.3B",
    "2R": "perplexity by token index, Books 32k, equal training FLOPs",
    "4": "inner loss at the first three layers, 125M, T = 2,048",
    "7L": "perplexity against inner mini-batch size, TTT-Linear 125M, Pile 2k",
    "7R": "forward time against inner mini-batch size, one TTT-Linear layer of 1.3B",
    "Table 1": "cumulative ablation from linear attention to TTT-Linear, 125M, Pile 2k",
    "10": "perplexity against training FLOPs, Pile 2k and 8k, four sizes",
    "11": "perplexity against training FLOPs, Books 2k and 32k, four sizes",
    "12": "latency of prefill and decode against context, 1.3B",
    "14": "inner loss at all twelve layers, 125M",
    "15": "perplexity against training FLOPs, Books, one panel per context from 1k to 32k",
    "16": "perplexity against context, Books, one panel per size",
}
# The figure here → those of the paper that it is the like of, at whatever scale its tier has.
LIKE: Mapping[str, tuple[str, ...]] = {
    "perplexity_vs_flops": ("2L", "10", "11", "15"),
    "perplexity_by_context": ("16",),
    "perplexity_by_position": ("2R",),
    "prefill_latency": ("12",),
    "decode_latency": ("12",),
    "state_vs_context": (),
    "inner_loss": ("4", "14"),
    "fairness_card": (),
    "verdicts": (),
    "latency": ("12",),
    "scaling_fits": (),
    "perplexity_by_train_context": ("15", "16"),
    "perplexity_vs_state": (),
    "mini_batch": ("7L", "7R"),
    "ablation": ("Table 1",),
}
# Figures of the paper that these figures are themselves, once the tier named above has made their rows.
DRAWN_BY: Mapping[str, tuple[str, ...]] = {
    "2R": ("perplexity_by_position",),
    "4": ("inner_loss",),
    "12": ("latency",),
    "7L": ("mini_batch",),
    "7R": ("mini_batch",),
    "Table 1": ("ablation",),
}


@dataclass(frozen=True)
class Ablation:
    """A row of the paper's table 1 (125M, Pile 2k): the model of conf/model that is it here, what it adds, its perplexity."""

    series: str
    what: str
    perplexity: float


TABLE_1: tuple[Ablation, ...] = (
    Ablation("linear_attention", "linear attention", 15.91),
    Ablation("linear_attention_improved", "without normaliser and feature map", 15.23),
    Ablation("linear_attention_improved", "as TTT: batch descent, W₀ = 0, η = ½", 15.23),
    Ablation("learned_start", "+ learned W₀", 15.27),
    Ablation("inner_norm", "+ layer norm and residual in f", 14.05),
    Ablation("mini_batch", "+ mini-batches of 16", 12.35),
    Ablation("ttt_linear_t", "+ learned η", 11.99),
    Ablation("ttt_linear", "+ Mamba backbone", 11.09),
)


@dataclass(frozen=True)
class Finding:
    """What the paper found of two models' nll, first - second: lower, higher or equal, as it reads off its figures in words.

    For models trained at contexts from ``least`` to ``most``; ``first`` and ``second`` as in ``style.series_name``, the same
    where a model's nll at a long context is compared with its own at a short one. data: of conf/data, where it holds for that
    alone.
    """

    first: str
    second: str
    least: int
    most: int
    found: str
    data: str = ""


SHORT, LONG = (2048, 2048), (8192, 32768)
FINDINGS: tuple[Finding, ...] = (
    Finding("ttt_linear", "transformer", *SHORT, "equal"),  # section 3.1, figure 10: comparable at 2k
    Finding("ttt_linear", "mamba", *SHORT, "higher", "books"),  # section 3.2, figure 11: Mamba slightly better on Books at 2k
    Finding("ttt_linear", "mamba", *SHORT, "equal"),
    Finding("ttt_mlp", "ttt_linear", *SHORT, "higher"),  # section 3.1: slightly worse per FLOP at 2k
    Finding("ttt_linear", "mamba", *LONG, "lower"),  # figures 10 and 11: at 8k and 32k
    Finding("ttt_mlp", "mamba", *LONG, "lower"),
    Finding("ttt_linear", "ttt_linear", *LONG, "lower"),  # figure 2, right: longer context goes on helping
    Finding("ttt_mlp", "ttt_mlp", *LONG, "lower"),
    Finding("transformer", "transformer", *LONG, "lower"),
    Finding("mamba", "mamba", *LONG, "equal"),  # figure 2, right: flat after 16k
)


def finding_of(first: str, second: str, train_context: int, data: str) -> str:
    """What the paper found of this pair on this data, first - second; empty where it says nothing."""
    opposite = {"lower": "higher", "higher": "lower", "equal": "equal"}
    for one in FINDINGS:
        is_here = one.least <= train_context <= one.most and one.data in ("", data)
        if is_here and {first, second} == {one.first, one.second}:
            return one.found if first == one.first else opposite[one.found]
    return ""
