"""What is secret is not written down: keys and passwords in a configuration, or in the words of an error. No torch here."""

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Names of what is secret, in a configuration or an environment: hf_token and WANDB_API_KEY, not batch_tokens.
NAME = re.compile(r"(^|_)(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
# In any text: user and password of an address, and tokens by the beginnings that their issuers gave them.
SHAPE = re.compile(r"(?<=[:/]/)[^/\s@]+(?=@)|\b(hf_|gh[opsu]_|github_pat_|sk-|wandb_v\d_|glpat-|AKIA)[\w-]{12,}")
# Shorter values of the environment would be found everywhere.
LEAST = 8


def without_secrets(node: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """A JSON-like value, or a text, with HIDDEN in place of what is secret by its name, its shape, or in ``environment``."""
    if isinstance(node, Mapping):
        return {
            key: HIDDEN if NAME.search(str(key)) and isinstance(value, str) else without_secrets(value, environment)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [without_secrets(value, environment) for value in node]
    if not isinstance(node, str):
        return node
    for name, value in environment.items():
        if NAME.search(name) and len(value) >= LEAST:
            node = node.replace(value, HIDDEN)
    return SHAPE.sub(HIDDEN, node)
