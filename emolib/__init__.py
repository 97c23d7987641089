"""Emotion-driven image editing with diffusion, and the benchmark that measures it.

Nothing is re-exported here: import the module that holds what you need, e.g.
`from emolib.diffusion import backbone`.
"""

import os

# OpenMP threads wait for each other by spinning unless told otherwise before torch is loaded: beside another
# busy program that costs several times the time. What the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
