"""The figures and tables of arXiv 2407.04620 that the project redraws: the tier that makes each, and what is like it here."""

from collections.abc import Mapping

# Numbers as in the latest arXiv version.
PAPER_TIERS: Mapping[str, str] = {
    "2L": "paper",
    "2R": "paper",
    "4": "small",
    "7L": "small",
    "7R": "gpu",
    "Table 1": "small",
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
}
# Figures of the paper that these figures are themselves, once the tier named above has made their rows.
DRAWN_BY: Mapping[str, tuple[str, ...]] = {
    "2R": ("perplexity_by_position",),
    "4": ("inner_loss",),
    "12": ("prefill_latency", "decode_latency"),
}
