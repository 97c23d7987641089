"""Emotion-driven image editing with diffusion, and the benchmark that measures it.

Nothing is re-exported here: import the module that holds what you need, e.g.
`from emolib.diffusion import backbone`.
"""

__version__ = "0.1.0"
