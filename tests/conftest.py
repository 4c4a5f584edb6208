"""Shapes in signatures are checked while tests run, except where torch.compile must trace the code
(CLFUNC_TYPES=0).
"""

import os

import torch

if os.environ.get("CLFUNC_TYPES", "1") == "1":
    import support.strict  # noqa: F401 (the hook reads `check` as an attribute of the package)
    from jaxtyping import install_import_hook

    install_import_hook("clfunc", "support.strict.check")

from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "clfunc",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clfunc")
