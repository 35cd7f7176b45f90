"""Language tasks as Markov decision processes: text environments, and token MDPs in pure JAX."""
