"""The phantom: patches like haematoxylin-and-eosin sections of lymph nodes, with known truth.

Tissue is drawn as amounts of three pigments, light passes through them by the law of Beer and Lambert, and a scanner looks at
it. Stain and scanner belong to the slide, structure to the patch: nothing about the stain tells the label.
"""

from histoprompt.phantom.generate import PhantomBatch, make_phantom, phantom_batches
from histoprompt.phantom.morphologies import MORPHOLOGIES
from histoprompt.phantom.stains import STAIN_NAMES

__all__ = ["MORPHOLOGIES", "STAIN_NAMES", "PhantomBatch", "make_phantom", "phantom_batches"]
