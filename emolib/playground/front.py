"""Whether somebody is there to move a slider."""

from __future__ import annotations

from importlib.util import find_spec


def live() -> bool:
    """Whether this cell was run by a front end with a person, such as JupyterLab, VS Code or Colab.

    papermill, nbconvert and nbclient say with every request that nobody can answer a question; a widget
    would be dead in what they write. False outside a notebook, and where anywidget is not installed."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or find_spec("anywidget") is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin"))
