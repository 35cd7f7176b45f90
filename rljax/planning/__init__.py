"""What a run would cost on devices that are not here: memory, operations, traffic, time."""
