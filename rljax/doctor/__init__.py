"""The dry run of a training script: what a run would do and need, before it begins."""
