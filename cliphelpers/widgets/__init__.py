"""What can be tried by hand in the notebooks.

Each tool is controls above a page of HTML that a function makes of their values: see
:func:`cliphelpers.widgets.parts.interactive`. They work on features and answers that the notebook
has computed, so that a change shows at once, and are worth showing in a live front end alone: see
:func:`cliphelpers.progress.live`.
"""
