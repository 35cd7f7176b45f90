"""Search for a config's best numbers: the space, the trials, and what came of them."""
