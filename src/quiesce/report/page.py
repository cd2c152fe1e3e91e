"""Builds the page: one self-contained HTML file that needs no network access."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from quiesce.report import tables
from quiesce.report.answers import QUESTIONS, Answer
from quiesce.report.charts.chart import Chart
from quiesce.report.charts.layer_map import FOLDED
from quiesce.report.palette import DARK, LIGHT, color, variable
from quiesce.report.run_data import Group, Subject
from quiesce.report.sections import SHOWN, sections
from quiesce.report.verdict import comparison, ranking, verdict

HERE = Path(__file__).parent
TEMPLATE = "page.html.j2"


def page(subject: Subject) -> str:
    """Return the HTML of a page about some runs."""
    shown = subject.groups[:SHOWN]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"typeset": typeset, "variable": variable, "figure": figure_json}
    return environment.get_template(TEMPLATE).render(
        subject=subject,
        light=LIGHT,
        dark=DARK,
        partners=embedded(json.dumps({LIGHT[name]: DARK[name] for name in LIGHT})),
        style=Markup((HERE / "page.css").read_text("utf-8")),
        script=Markup((HERE / "page.js").read_text("utf-8")),
        plotly=Markup(get_plotlyjs()),
        shown=[(group, color(i)) for i, group in enumerate(shown)],
        answered=[(question, _answers(shown, answer)) for question, answer in QUESTIONS.items()],
        verdicts=[(group, color(i), verdict(group.runs[0])) for i, group in enumerate(shown)],
        comparison=(ranking if subject.swept else comparison)(subject.groups),
        facts=tables.facts(subject.groups),
        headline=tables.headline(subject.groups),
        every_run=tables.every_run(subject.groups),
        layers=[(group, tables.layers(group.runs[0])) for group in shown],
        sections=sections(subject),
        folded=FOLDED,
        versions=_versions(subject),
    )


def embedded(data: str) -> Markup:
    """Return JSON that is safe inside a script element: no name can close the element."""
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(data)


def figure_json(chart: Chart) -> Markup:
    """Return the figure of a chart, for the page's script."""
    return embedded(str(to_json(chart.figure, validate=False, engine="json")))


def typeset(text: str) -> str:
    """Keep numbers and their units on one line."""
    for unit in ("%", "nats"):
        text = text.replace(f" {unit}", f"\u00a0{unit}")
    return text


def _answers(
    groups: Sequence[Group], answer: Callable[[Group], Answer]
) -> list[tuple[str, Answer]]:
    """Return the answer of each group with its label, or one answer if all give the same."""
    told = [(group.label, answer(group)) for group in groups]
    same = len({each for _, each in told}) == 1 < len(told)
    return [(f"all {len(told)}", told[0][1])] if same else told


def _versions(subject: Subject) -> Sequence[str]:
    """Return the distinct versions recorded by the runs."""
    told = (f"{name} {at}" for run in subject.runs for name, at in run.versions.items())
    return list(dict.fromkeys(told))
