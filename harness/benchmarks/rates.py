"""The machine itself: its matrix rate in the run's precision and its copy rate, the ceilings of every floor."""

from __future__ import annotations

from collections.abc import Sequence

from harness.app.compose import compose_config
from harness.benchmarks.floor import machine_rates
from harness.benchmarks.ratios import Spread
from harness.benchmarks.study import machine, parser
from harness.files import write_json
from harness.training.devices import set_up


def main(arguments: Sequence[str]) -> None:
    """Measure, print and write JSON.

    Raises:
        UserError: for wrong settings, or when the file cannot be written.
    """
    options = parser("rates", __doc__, rounds=3).parse_intermixed_args(list(arguments))
    compute = set_up(compose_config(options.overrides)[0])
    rounds = [machine_rates(compute) for _ in range(options.rounds)]
    matrix, copy = (Spread.of([pair[position] for pair in rounds]) for position in (0, 1))
    print(f"{compute.device_name}, {compute.precision}")
    print(f"matrix product: {matrix.median / 1e12:.3g} TFLOP/s ({matrix.min / 1e12:.3g} to {matrix.max / 1e12:.3g})")
    print(f"copy on the device: {copy.median / 1e9:.3g} GB/s ({copy.min / 1e9:.3g} to {copy.max / 1e9:.3g})")
    write_json(
        options.output,
        {
            **machine(),
            "device": compute.device_name,
            "precision": compute.precision,
            "rounds": [{"matrix_flops_per_second": m, "copy_bytes_per_second": c} for m, c in rounds],
        },
    )
    print(f"written: {options.output}")
