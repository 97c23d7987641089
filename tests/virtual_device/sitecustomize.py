"""Put this folder on PYTHONPATH: kernels then find the GPU of `virtual_cuda`, if EMOLIB_VIRTUAL_CUDA is set.

Its value, "float32" or "float16", is the dtype that emolib takes there by default.
"""

import os
import sys

if os.environ.get("EMOLIB_VIRTUAL_CUDA") and "ipykernel_launcher" in sys.orig_argv:
    import importlib.util
    from pathlib import Path

    file = Path(__file__).parents[1] / "virtual_cuda.py"
    spec = importlib.util.spec_from_file_location("virtual_cuda", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _kept = module.virtual_cuda(os.environ["EMOLIB_VIRTUAL_CUDA"])  # or it would end when it is collected
    _kept.__enter__()
