"""A web page that restores pictures, ``indigo demo``: :mod:`page` is what is seen, :mod:`work` what is done.

Only :mod:`page` needs gradio (extra ``demo``).
"""
