"""Show what experiments/benchmark.py has measured."""

from __future__ import annotations

import statistics
from typing import Any


def print_table(numbers: dict[str, Any]) -> None:
    """Print a line for each part, and what they are compared with."""
    print(
        f"{numbers['flags']['model']}: {numbers['parameters'] / 1e6:.1f} M parameters; "
        f"{numbers['device']}, {numbers['cpus']} CPUs, jax {numbers['jax']}"
    )
    print(
        f"{'part':<9}{'compile s':>11}{'first s':>9}{'median s':>10}{'min-max s':>16}"
        f"{'tokens/s':>11}{'GFLOP/s':>9}{'of matmul':>11}{'temp MB':>9}{'peak MB':>9}"
    )
    for name, row in numbers["results"].items():
        cached = "*" if row["from_cache"] else ""
        spread = f"{row['min_s']:.3f}-{row['max_s']:.3f}"
        temporary = "?" if row["temporary_mb"] is None else f"{row['temporary_mb']:.0f}"
        peak = row["peak_device_mb"] or row["peak_rss_mb"]
        print(
            f"{name:<9}{cached + format(row['compile_s'], '.2f'):>11}{row['first_call_s']:>9.2f}"
            f"{row['median_s']:>10.3f}{spread:>16}{row['tokens_per_s']:>11.1f}"
            f"{row['flops_per_s'] / 1e9:>9.1f}{row['share_of_matmul']:>11.1%}"
            f"{temporary:>9}{peak:>9.0f}"
        )
    print(f"matrix product: {numbers['matmul_flops_per_s'] / 1e9:.1f} GFLOP/s", end="")
    print("; peak: of the process so far", end="")
    loaded = any(row["from_cache"] for row in numbers["results"].values())
    print("; *: loaded from the compilation cache" if loaded else "")
    copy, read = numbers["copy_bytes_per_s"] / 1e9, numbers["decode_bytes_per_s"]
    print(f"copy: {copy:.1f} GB/s", end="")
    if read is not None:
        share = read / 1e9 / copy
        print(f"; decoding reads at {read / 1e9:.1f} GB/s, {share:.1%} of it", end="")
    print()
    if (queue := numbers["slots"]) is not None:
        slots = numbers["flags"]["slots"]
        print(
            f"completions of {queue['mean_length']:.1f} tokens: {queue['slots_tokens_per_s']:.0f} "
            f"tokens/s through {slots} slots; {queue['plain_tokens_per_s']:.0f} all at once "
            f"({_spread(queue['ratios'])}), {queue['batches_tokens_per_s']:.0f} in batches of "
            f"{slots} ({_spread(queue['batch_ratios'])}); {queue['same_share']:.1%} the same"
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} x, {min(ratios):.2f} - {max(ratios):.2f}"
