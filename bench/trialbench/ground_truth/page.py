"""The verdict as one HTML page: no script, no network, plots as inline SVG. Text of models and runtimes is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trialbench.ground_truth.outputs import label
from trialbench.terminal import screen

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ground truth: {{ v.verdict }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .6rem; vertical-align: top; }
tr + tr td { border-top: 1px solid #e3e7ee; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.PASS { color: #17703b; } .FAIL { color: #b3261e; font-weight: 600; } .INCONCLUSIVE { color: #8a5a00; }
.mute { color: #667; } svg { width: 100%; height: auto; } code { font-size: .9em; }
@media (prefers-color-scheme: dark) {
  body { background: #14181f; color: #dfe5ee; } tr + tr td { border-color: #2b3340; }
  .PASS { color: #62c78b; } .FAIL { color: #ff8a80; } .INCONCLUSIVE { color: #e5b567; } .mute { color: #9aa5b5; }
}
</style></head><body>
<h1>Is it still the same model? <span class="{{ v.verdict }}">{{ v.verdict }}</span></h1>
<p>{{ v.runtime.name }} {{ v.runtime.version }}, roster {{ v.roster.name }}, {{ v.made }}.
{{ v.counts.declared }} checks were declared, {{ v.counts.probative }} of them can fail:
{{ v.counts.PASS }} passed, {{ v.counts.FAIL }} failed, {{ v.counts.INCONCLUSIVE }} could not be decided,
{{ v.counts["NOT APPLICABLE"] }} do not apply.
{{ v.loads }} models were loaded, in {{ "%.1f"|format(v.seconds) }} s.</p>
<p class="mute">{{ v.machine.system }}, {{ v.machine.processor }}, {{ v.machine.cores }} cores,
trialbench {{ v.trialbench }}</p>
{% if v.claims %}<h2>Claims, stated beforehand</h2><table>
<tr><th>claim</th><th>standing</th><th>found</th><th></th></tr>
{% for c in v.claims %}<tr><td>{{ c.statement }}</td><td>{{ c.standing }}</td><td>{{ c.says }}</td>
<td class="{{ c.status }}">{{ c.status }}</td></tr>{% endfor %}</table>{% endif %}
<h2>Fidelity against size and speed</h2><table>
<tr><th>file</th><th class="n">MB</th><th class="n">tokens/s</th><th class="n">top-1 agreement</th>
<th class="n">KL, nats</th><th class="n">perplexity</th></tr>
{% for f in files %}<tr><td>{{ f.model }} {{ f.quant }}</td><td class="n">{{ f.mb }}</td>
<td class="n">{{ f.speed }}</td>
<td class="n">{{ f.agreement }}</td><td class="n">{{ f.kl }}</td><td class="n">{{ f.ppl }}</td></tr>
{% endfor %}</table>
{% for plot in plots %}<h2>{{ plot.title }}</h2>
<svg viewBox="0 0 {{ plot.width }} {{ plot.height }}" role="img" aria-label="{{ plot.title }}">
{% for tick in plot.ticks %}<line x1="60" x2="{{ plot.width - 10 }}" y1="{{ tick.y }}" y2="{{ tick.y }}"
stroke="currentColor" opacity=".15"/><text x="54" y="{{ tick.y + 4 }}" font-size="11" text-anchor="end"
fill="currentColor">{{ tick.text }}</text>{% endfor %}
{% for curve in plot.curves %}<polyline points="{{ curve.points }}" fill="none" stroke="{{ curve.colour }}"
stroke-width="1.6"/><text x="{{ 70 + loop.index0 * 90 }}" y="14" font-size="12" fill="{{ curve.colour }}">{{ curve.name
}}</text>{% endfor %}
{% for mark in plot.marks %}<circle cx="{{ mark.x }}" cy="{{ mark.y }}" r="4" fill="none" stroke="{{ mark.colour }}"
stroke-width="2"><title>another token than the oracle's</title></circle>{% endfor %}
</svg>{% endfor %}
{% for title, rows in sections %}{% if rows %}<h2>{{ title }}</h2><table>
{% for r in rows %}<tr><td>{{ r.name }}</td><td class="{{ r.status }}">{{ r.status }}</td><td>{{ r.says }}</td></tr>
{% endfor %}</table>{% endif %}{% endfor %}
</body></html>
"""
_COLOURS = ("#3b6fd4", "#17925a", "#b8860b", "#c2561a", "#a2378f", "#b3261e")
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 900, 240, 24, 226
_LEAST, _MOST = -7.0, 1.5  # powers of ten of the KL axis


def page(verdict: dict[str, Any]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    rows = [{"name": label(row), "status": row["status"], "says": screen(row["says"])} for row in verdict["results"]]
    sections = [
        ("Failed", [row for row in rows if row["status"] == "FAIL"]),
        ("Could not be decided", [row for row in rows if row["status"] == "INCONCLUSIVE"]),
        ("Passed", [row for row in rows if row["status"] == "PASS"]),
        ("Not applicable", [row for row in rows if row["status"] == "NOT APPLICABLE"]),
    ]
    html: str = environment.from_string(_TEMPLATE).render(
        v=verdict, files=_files(verdict), plots=_plots(verdict), sections=sections
    )
    return html


def _evidence(verdict: dict[str, Any], suite: str, model: str, quant: str) -> dict[str, Any]:
    for row in verdict["results"]:
        if (row["suite"], row["model"], row["quant"], row["other"]) == (suite, model, quant, ""):
            evidence: dict[str, Any] = row["evidence"]
            return evidence
    return {}


def _files(verdict: dict[str, Any]) -> list[dict[str, str]]:
    shown = []
    for file in verdict["files"]:
        forced = _evidence(verdict, "forced", file["model"], file["quant"])
        over = _evidence(verdict, "ppl", file["model"], file["quant"])
        shown.append(
            {
                "model": file["model"],
                "quant": file["quant"],
                "mb": "-" if file["bytes"] is None else f"{file['bytes'] / 1e6:.2f}",
                "speed": "-" if file["tokens_per_s"] is None else f"{file['tokens_per_s']:.0f}",
                "agreement": f"{forced['agreement']:.1%}" if "agreement" in forced else "-",
                "kl": f"{forced['kl_mean']:.2g}" if "kl_mean" in forced else "-",
                "ppl": f"{over['perplexity']:.4g}" if over.get("perplexity") is not None else "-",
            }
        )
    return shown


def _plots(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """KL by position for each model: one curve a file, all prompts one after the other, divergences marked."""
    plots = []
    for model in dict.fromkeys(file["model"] for file in verdict["files"]):
        curves, marks = [], []
        for number, file in enumerate([one for one in verdict["files"] if one["model"] == model]):
            forced = _evidence(verdict, "forced", model, file["quant"])
            values: list[float] = []
            wrong: list[int] = []
            for prompt, row in forced.get("kl_by_position", {}).items():
                wrong += [len(values) + at for at in forced["disagreements"].get(prompt, [])]
                values += row
            if not values:
                continue
            colour = _COLOURS[number % len(_COLOURS)]
            places = [_place(at, value, len(values)) for at, value in enumerate(values)]
            curves.append(
                {
                    "name": file["quant"],
                    "colour": colour,
                    "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places),
                }
            )
            marks += [{"x": f"{places[at][0]:.1f}", "y": f"{places[at][1]:.1f}", "colour": colour} for at in wrong]
        if curves:
            title = f"{model}: KL divergence by position (nats, logarithmic; rings: another token)"
            plots.append(
                {
                    "title": title,
                    "width": _WIDTH,
                    "height": _HEIGHT,
                    "curves": curves,
                    "marks": marks,
                    "ticks": _ticks(),
                }
            )
    return plots


def _place(at: int, value: float, count: int) -> tuple[float, float]:
    power = min(_MOST, max(_LEAST, math.log10(value) if value > 0 else _LEAST))
    x = 60 + (_WIDTH - 70) * at / max(1, count - 1)
    return x, _BOTTOM - (_BOTTOM - _TOP) * (power - _LEAST) / (_MOST - _LEAST)


def _ticks() -> Sequence[dict[str, Any]]:
    powers = [-6, -4, -2, 0]
    return [{"y": round(_place(0, 10.0**power, 1)[1], 1), "text": f"1e{power}" if power else "1"} for power in powers]
