"""What a notebook publishes for the book: numbers to quote, and figures."""

import json
import os

import jax.numpy as jnp
import numpy as np
import plotly.graph_objects as go
import pytest

from lodo_experiments.report import glue, plotly_html


class Shell:
    """Collects what a notebook would display."""

    def __init__(self, monkeypatch):
        self.outputs = []
        monkeypatch.setattr("IPython.get_ipython", lambda: self)
        monkeypatch.setattr(
            "IPython.display.publish_display_data", lambda data, metadata=None: self.outputs.append((data, metadata))
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.1 + 0.2, "0.30000000000000004"),
        (np.float64(1.5), "1.5"),
        (np.int32(7), "7"),
        (np.float32(0.1), "0.10000000149011612"),
        (jnp.float32(0.5), "0.5"),
        (np.array(2.5), "2.5"),
        ("Adam", "'Adam'"),
        (np.str_("Adam"), "'Adam'"),
    ],
)
def test_numbers_are_published_whole(monkeypatch, value, text):
    shell = Shell(monkeypatch)
    glue.publish(some_key=value)
    ((data, metadata),) = shell.outputs
    assert data == {"application/papermill.record/text/plain": text}
    assert metadata["scrapbook"]["name"] == "some_key"


@pytest.mark.parametrize("value", [float("nan"), np.inf, jnp.nan])
def test_a_number_that_is_not_finite_is_refused(monkeypatch, value):
    shell = Shell(monkeypatch)
    with pytest.raises(ValueError, match=r"some_key: .*finite"):
        glue.publish(other=1, some_key=value)
    assert not shell.outputs


@pytest.mark.parametrize("value", [True, [1.0], np.ones(2), 1j, {"a": 1}])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"some_key: .*expected a number or a text"):
        glue.publish(some_key=value)


def test_a_sentence_without_its_number_is_left_out(monkeypatch):
    shell = Shell(monkeypatch)
    glue.publish(some_loss=1.25, some_best=None, some_name="L-BFGS")
    assert len(shell.outputs) == 2  # None is not published
    text = glue.sentences(
        r"$H_{\max}$: {some_loss:.1f} with {some_name:s}.", "The best is {some_best:s}.", "That is all."
    )
    assert text == r"$H_{\max}$: 1.2 with L-BFGS. That is all."
    with pytest.raises(KeyError, match="some_los was not published; did you mean some_loss"):
        glue.sentences("It is {some_los:.1f}.")


def test_sentences_are_shown_as_markdown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *given, **how: shown.append((given[0].data, how)))
    glue.publish(some_loss=1.25, some_best=None)
    glue.say("It is {some_loss:.2f}.")
    glue.say("The best is {some_best:s}.")
    assert shown == [("It is 1.25.", {"metadata": {"lodo_said": True}})]


def test_outside_a_notebook_nothing_is_displayed(capsys):
    glue.publish(some_key=1)
    assert capsys.readouterr().out == ""


def test_figure_carries_its_data_and_a_text():
    figure = go.Figure(go.Scatter(y=np.array([1.0, 2.0]), name="</script><b>"))
    page = plotly_html.to_html(figure, 'a "quoted" <text>')
    assert page.count("</script>") == 1
    assert "a &quot;quoted&quot; &lt;text&gt;" in page
    text = page.split('<script type="application/json">')[1].split("</script>")[0]
    specification = json.loads(text)
    assert specification["data"][0]["name"] == "</script><b>"
    assert "template" not in specification["layout"]
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_figures_are_published_as_html_for_the_book_only(monkeypatch):
    shell, shown = Shell(monkeypatch), []
    figure = go.Figure(go.Scatter(y=[1, 2]))
    monkeypatch.setattr(go.Figure, "show", lambda self, config: shown.append(config))
    monkeypatch.delitem(os.environ, "LODO_BOOK", raising=False)
    plotly_html.show(figure, "It rises.")
    assert len(shown) == 1
    assert shown[0]["showSendToCloud"] is False
    assert not shell.outputs
    monkeypatch.setitem(os.environ, "LODO_BOOK", "1")
    plotly_html.show(figure, "It rises.")
    assert len(shown) == 1
    assert plotly_html.MARK in shell.outputs[0][0]["text/html"]
    assert "It rises." in shell.outputs[0][0]["text/plain"]


@pytest.mark.parametrize(
    ("figure", "description", "says"),
    [(go.Figure(), "It rises.", "without traces"), (go.Figure(go.Scatter(y=[1])), " ", "empty text")],
)
def test_an_empty_figure_or_text_is_refused(figure, description, says):
    with pytest.raises(ValueError, match=says):
        plotly_html.show(figure, description)
