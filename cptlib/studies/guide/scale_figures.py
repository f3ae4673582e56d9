"""The figure of the page on cost: time and utilisation against size, and time against runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from cptlib.evidence.figures import WIDTHS, category, curve_with_interval, log_count_axis, style
from cptlib.runs.cost import HOUR, measured
from cptlib.runs.store import Record


def cost(records: Mapping[str, Sequence[Record]]):
    """Core seconds for a million tokens and MFU against parameters, by device; core hours against runs, by study."""
    rows = measured(record for group in records.values() for record in group)
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTHS["wide"], 2.9))
        for k, device in enumerate(sorted({row.device for row in rows})):
            mine = [row for row in rows if row.device == device]
            size = [row.parameters for row in mine]
            seconds, low, high = (
                [1e6 / getattr(row, name) for row in mine] for name in ("speed", "speed_hi", "speed_lo")
            )
            curve_with_interval(axes[0], size, seconds, low, high, label=device.split(",")[0], bars=True, **category(k))
            axes[1].plot(size, [100 * row.mfu for row in mine], **category(k))
        flops = np.array(sorted((row.parameters, row.flops_per_token) for row in rows)).T
        anchor = np.median([1e6 / row.speed / row.flops_per_token for row in rows])
        axes[0].plot(
            flops[0], anchor * flops[1], color="#888888", linewidth=0.9, linestyle=(0, (2, 2)), marker="",
            label="in proportion to arithmetic",
        )  # fmt: skip
        log_count_axis(axes[0].yaxis, "core seconds for 1 M tokens")
        axes[1].set_ylabel("MFU (% of the float32 product)")
        axes[1].set_ylim(0, None)
        for ax in axes[:2]:
            log_count_axis(ax.xaxis, "parameters N")
        for k, (name, group) in enumerate(records.items()):
            hours = np.cumsum([r.seconds for r in sorted(group, key=lambda r: r.created)]) / HOUR
            look = category(k) | {"marker": ""}
            axes[2].plot(np.arange(1, len(hours) + 1), hours, label=name, **look)
        axes[2].set_xlabel("runs, as they were finished")
        axes[2].set_ylabel("core hours")
        axes[2].set_ylim(0, 1.4 * axes[2].get_ylim()[1])  # room for the legend
        axes[2].legend(loc="upper left")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure
