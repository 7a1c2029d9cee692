"""``python -m bench.card model=ttt_linear,mamba match=ffn size=1.3b …``: the fairness card of a comparison, nothing trained.

Exit status 1 where realised FLOPs are further off their target than match.tolerance.
"""

import sys
from collections.abc import Sequence

from bench.build import Prepared, prepare
from bench.compose import compose_run
from bench.config import RunConfig
from bench.errors import EXPECTED
from bench.overrides import check_keys, expand

HEAD = (
    *("model", "layers", "ffn", "parameters", "FLOP/token", "head"),
    *("tokens", "epochs", "steps", "lr", "state (B)", "total FLOP", "mismatch"),
)


def card_row(prepared: Prepared) -> tuple[str, ...]:
    """One model's line, in the order of HEAD."""
    run, plan, size, epochs = prepared.run, prepared.unchecked_plan, prepared.size, prepared.epochs
    context = run.optim.train_context
    head = prepared.sketch.head_cost("train", context).flops / prepared.train_flops(context)
    name = run.model.name + (" (T)" if run.model.name.startswith("ttt") and run.model.backbone == "transformer" else "")
    return (
        *(name, f"{size.layers}", f"{size.ffn}", f"{prepared.parameters:,}", f"{plan.flops_per_token:.4g}", f"{head:.1%}"),
        *(f"{plan.tokens:,}", "–" if epochs is None else f"{epochs:.2f}", f"{plan.all_steps:,}", f"{run.optim.lr:g}"),
        *(f"{prepared.state_bytes(context):,}", f"{plan.flops:.4g}", f"{plan.mismatch:+.2%}"),
    )


def card_text(runs: Sequence[RunConfig]) -> tuple[str, bool]:
    """The card of a comparison, and whether every model is within its tolerance."""
    prepared = [prepare(run) for run in runs]
    rows = [HEAD, *map(card_row, prepared)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    run, worst = runs[0], max(abs(p.unchecked_plan.mismatch) for p in prepared)
    is_matched = prepared[0].unchecked_plan.is_matched
    is_fair = not is_matched or all(abs(p.unchecked_plan.mismatch) <= p.run.match.tolerance for p in prepared)
    held = f"within {worst:.2%} (tolerance {run.match.tolerance:.2%})" if is_matched else "NOT matched: tokens are equal"
    lines.append(f"match={run.match.method}, attention counted {run.match.convention}, training = 3x forward: FLOPs {held}")
    lines.append(
        f"context {run.optim.train_context}, batch {run.optim.batch_tokens} tokens; learning rate: {run.optim.lr_source}"
    )
    return "\n".join(lines), is_fair


def main() -> int:
    """The command line."""
    try:
        check_keys(sys.argv[1:])
        text, is_fair = card_text([compose_run(job) for job in expand(sys.argv[1:])])
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0 if is_fair else 1


if __name__ == "__main__":
    sys.exit(main())
