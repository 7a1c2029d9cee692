"""Parts of experiment=latency: the grid of cells, engines, sessions that are timed, turns, the gate, what the card tells."""
