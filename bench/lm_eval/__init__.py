"""Our models in EleutherAI's lm-eval harness: the model, tasks on local files, and its command line.

python -m bench.lm_eval --model ttt_bench --model_args path=results/runs/train/RUN_ID --tasks heldout
"""
