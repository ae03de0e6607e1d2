"""Numbers that a notebook publishes for the book's prose.

A page never carries a figure typed by hand: the notebook that computed it publishes it under a key, and the page
quotes the key by myst-nb's ``glue:text`` role with a format: ``bowl_lodo_loss:.3f`` on the notebook's page,
``../notebooks/noisy_bowl.ipynb::bowl_lodo_loss:.3f`` on another. The output has the form that myst-nb reads, but
nothing here imports myst-nb, which a hosted notebook does not have.
"""

from __future__ import annotations

import keyword
import math
import numbers

#: The prefix of the media type that marks an output as one to quote, not to show.
_PREFIX = "application/papermill.record/"


def publish(**values: float | int | str) -> None:
    """Publishes numbers and texts for the book's pages.

    Outside a notebook this does nothing but check its input.

    Args:
      **values: What to publish, by key. Numbers (Python's, NumPy's, or 0-d arrays) are kept in full precision: the
        page chooses how many digits to show. A key starts with the notebook's subject, since pages quote across
        notebooks: ``bowl_lodo_loss``, not ``loss``.

    Raises:
      TypeError: If a value is neither a number nor a text.
      ValueError: If a number is not finite. A diverged run is a result too: publish the text that says so.

    Example:
      >>> publish(bowl_seeds=8, bowl_optimizer="LODO")
      >>> publish(bowl_loss=float("nan"))
      Traceback (most recent call last):
      ValueError: bowl_loss: got nan; a page can quote finite numbers only. Publish a text, such as 'diverged'.
    """
    texts = {key: _text(key, value) for key, value in values.items()}
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
