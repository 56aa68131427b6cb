"""Draw the dashboard's panels from a Prometheus server's data, by the dashboard's own expressions, without Grafana.

    .venv/bin/python docs/grafana/picture.py http://127.0.0.1:9090 docs/grafana/dashboard.png --minutes 5

Ends with status 1 where an expression is not valid or finds nothing.
"""

import argparse
import json
import math
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DASHBOARD = Path(__file__).with_name("dashboard.json")
#: In seconds.
STEP = 5
#: What Grafana would put in.
VARIABLES = {"$job": ".*", "$__rate_interval": "30s"}
MOST_LABELS = 8


def ask(prometheus: str, expression: str, minutes: int) -> list[dict[str, Any]]:
    """Return the series that an expression finds in the last minutes."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    end = time.time()
    asked = {"query": expression, "start": end - 60 * minutes, "end": end, "step": STEP}
    with urlopen(f"{prometheus}/api/v1/query_range?{urlencode(asked)}", timeout=30) as answer:
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def legend(form: str, labels: dict[str, str]) -> str:
    """Return the name of a series."""
    return re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), form)


def main() -> None:
    """Draw the dashboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="where Prometheus is")
    parser.add_argument("picture", type=Path, help="the file to write")
    parser.add_argument("--minutes", type=int, default=5, help="how far to look back")
    arguments = parser.parse_args()

    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    figure = Figure(figsize=(18, 16), layout="constrained")
    FigureCanvasAgg(figure)
    empty = []
    now = datetime.now(UTC)
    for axes, panel in zip(figure.subplots(math.ceil(len(panels) / 3), 3).flat, panels, strict=False):
        axes.set_title(f"{panel['title']} ({panel['fieldConfig']['defaults']['unit']})", fontsize=11, loc="left")
        for target in panel["targets"]:
            found = ask(arguments.prometheus, target["expr"], arguments.minutes)
            if not found:
                empty.append(f"{panel['title']}: {target['expr']}")
            for series in found:
                times = [datetime.fromtimestamp(moment, UTC) for moment, _ in series["values"]]
                numbers = [float(value) for _, value in series["values"]]
                axes.plot(times, numbers, label=legend(target["legendFormat"], series["metric"]), linewidth=1.3)
        axes.set_ylim(bottom=0)
        axes.set_xlim(now - timedelta(minutes=arguments.minutes), now)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles[:MOST_LABELS], labels[:MOST_LABELS], fontsize=7, loc="upper left")
    figure.savefig(arguments.picture, dpi=80)
    if empty:
        sys.exit("Nothing was found for:\n" + "\n".join(empty))


if __name__ == "__main__":
    main()
