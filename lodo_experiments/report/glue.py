"""Numbers that a notebook publishes, for its own sentences and for the book's prose.

No page carries a figure typed by hand. The notebook that computed it publishes it under a key. Its own sentences quote
the key by :func:`say`, which shows them as text wherever the notebook is opened. Other pages of the book quote it by
myst-nb's ``glue:text`` role with a format, ``../notebooks/noisy_bowl.ipynb::bowl_lodo_loss:.3f``. The output has the
form that myst-nb reads, but nothing here imports myst-nb, which a hosted notebook does not have.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import numbers
import re

#: The prefix of the media type that marks an output as one to quote, not to show.
_PREFIX = "application/papermill.record/"

#: What was published in this process, by key; None: it does not exist in this run.
_published: dict[str, float | int | str | None] = {}


def publish(**values: float | int | str | None) -> None:
    """Publishes numbers and texts for this page's sentences and for the book's pages.

    Outside a notebook this does nothing but check its input, and remember it for :func:`say`.

    Args:
      **values: What to publish, by key. Numbers (Python's, NumPy's, or 0-d arrays) are kept in full precision: the
        page chooses how many digits to show. None says that there is no such number in this run, as where LODO is not
        among the optimizers that a reader asked for; sentences that quote it are left out. A key starts with the
        notebook's subject, since pages quote across notebooks: ``bowl_lodo_loss``, not ``loss``.

    Raises:
      TypeError: If a value is neither a number nor a text.
      ValueError: If a number is not finite. A diverged run is a result too: publish the text that says so.

    Example:
      >>> publish(bowl_seeds=8, bowl_optimizer="LODO")
      >>> publish(bowl_loss=float("nan"))
      Traceback (most recent call last):
      ValueError: bowl_loss: got nan; a page can quote finite numbers only. Publish a text, such as 'diverged'.
    """
    texts = {key: _text(key, value) for key, value in values.items() if value is not None}
    _published.update(dict.fromkeys(values) | {key: ast.literal_eval(text) for key, text in texts.items()})
    try:
        from IPython import get_ipython
        from IPython.display import publish_display_data
    except ImportError:
        return
    if get_ipython() is None:
        return
    for key, text in texts.items():
        publish_display_data(
            {f"{_PREFIX}text/plain": text},
            metadata={"scrapbook": {"name": key, "mime_prefix": _PREFIX}},
        )


def sentences(*given: str) -> str:
    """Text with published numbers in it, without the sentences that quote one that there is not in this run.

    Args:
      *given: sentences, or several at a time, with keys and formats in braces, such as ``{bowl_lodo_loss:.2f}``. Braces
        around anything else are left alone, as TeX has them.

    Raises:
      KeyError: a key that was not published, which has the form of one.

    >>> publish(bowl_seeds=8, bowl_best=None)
    >>> sentences("There are {bowl_seeds:d} runs of $x_{t}$.", "The best is {bowl_best:s}.")
    'There are 8 runs of $x_{t}$.'
    """
    quoted = re.compile(r"\{([a-z]\w*_\w+):([^{}]*)\}")
    kept = []
    for text in given:
        keys = [key for key, _ in quoted.findall(text)]
        for key in keys:
            if key not in _published:
                close = difflib.get_close_matches(key, list(_published), n=1)
                raise KeyError(f"{key} was not published" + (f"; did you mean {close[0]}?" if close else "."))
        if all(_published[key] is not None for key in keys):
            kept.append(quoted.sub(lambda found: format(_published[found[1]], found[2]), text))
    return " ".join(kept)


def say(*given: str) -> None:
    """Shows sentences with published numbers in them, as Markdown; see :func:`sentences`."""
    from IPython.display import Markdown, display

    text = sentences(*given)
    if text:
        display(Markdown(text), metadata={"lodo_said": True})


def number_or_word(value: float, form: str) -> str:
    """A number as text, to publish where it may be none, as after a run that diverged.

    >>> number_or_word(0.512, ".2f"), number_or_word(float("inf"), ".2f")
    ('0.51', 'not a number')
    """
    return format(float(value), form) if math.isfinite(value) else "not a number"


def _text(key: str, value: object) -> str:
    if not key.isidentifier() or keyword.iskeyword(key):
        raise ValueError(f"{key!r}: expected a key of letters, digits and underscores; rename it.")
    if isinstance(value, str):
        return repr(str(value))
    # 0-d arrays of NumPy and JAX hold one number, but are no `numbers.Number`.
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{key}: got {type(value).__name__}; expected a number or a text. Publish one at a time.")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"{key}: got {number}; a page can quote finite numbers only. Publish a text, such as 'diverged'."
        )
    return repr(number)
