"""Tracking: runs shown in W&B beside their rows, which it reads and never makes (`tracking=wandb`, `python -m bench.tracking`).

A run → process.py (starts one process a run, waits so long and no longer) → log.py (reads the run's folder, speaks to W&B)
→ names.py (what things are called there: a pure function of rows). sync.py uploads what is local. No torch here, and W&B in no
process but that of log.py: whatever it does, or does not do, the run has its numbers, its times and its status.
"""
