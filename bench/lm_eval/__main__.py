"""lm-eval's own command line, with our models as ``--model ttt_bench`` and our tasks beside lm-eval's.

    python -m bench.lm_eval --model ttt_bench --model_args path=results/runs/train/RUN_ID --tasks heldout
    python -m bench.lm_eval … --tasks lambada,choices --metadata '{"lambada": "lambada.jsonl", "choices": "choices.jsonl"}'

Further ``--model_args`` are those of bench.lm_eval.model.BenchLM. ``--device`` is the GPU where there is one, unless given.
lm-eval indexes all of its own tasks first, which takes half a minute; ``python -m bench experiment=lm_eval`` does not.
"""

import sys

from bench.extras import MissingPackage, require


def main() -> None:
    """Completes the arguments and hands over."""
    try:
        require("lm_eval", "eval")
    except MissingPackage as error:
        sys.exit(f"error: {error}")
    import torch
    from lm_eval.__main__ import cli_evaluate

    from bench.errors import EXPECTED
    from bench.lm_eval import model  # noqa: F401  importing it registers the model
    from bench.lm_eval.documents import TASKS

    words = sys.argv[1:]
    runs = bool(words) and words[0] not in ("ls", "validate", "-h", "--help")
    if runs and "--include_path" not in words:
        sys.argv += ["--include_path", str(TASKS)]
    if runs and "--device" not in words:
        sys.argv += ["--device", "cuda" if torch.cuda.is_available() else "cpu"]
    try:
        cli_evaluate()
    except EXPECTED as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
