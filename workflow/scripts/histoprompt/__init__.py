"""histoprompt: synthetic histopathology from loosely labelled patches.

The library under the Snakemake workflow. It knows nothing of Snakemake: every stage is a function of the form
``stage(*input_paths, *output_paths, **parameters) -> None`` over pure array functions, so that it can be read, tested and
used without the workflow.
"""

import os

# diffusers asks for GPUs when it is imported. Asked by way of NVML, CUDA does not start, and a job can still choose its cards.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
