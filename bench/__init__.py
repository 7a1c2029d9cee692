"""The harness: from a command to rows, from rows to figures."""
