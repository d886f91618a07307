"""What training leaves in a file by name, and no loader reads."""

from ckptool.convert.state_dict import TRAINING
from ckptool.identify.components import WRAPPERS
from ckptool.tensor import Plan

# The first part of a name: what Lightning and others keep beside the weights, losses, and textual inversion's manager.
LEFT_BY_TRAINING = TRAINING | {"loss", "embedding_manager"}
# An autoencoder's loss holds a discriminator and a perceptual network.
AUTOENCODERS = frozenset({"first_stage_model", "vae"})


def is_training(name: str) -> bool:
    """A tensor of this name belongs to a training state."""
    first, _, rest = name.partition(".")
    while (first in WRAPPERS or first in AUTOENCODERS) and rest:
        first, _, rest = rest.partition(".")
    return bool(rest) and first in LEFT_BY_TRAINING


def training_reasons(plan: Plan) -> dict[str, str]:
    """Name -> reason of every tensor of a training state."""
    return {tensor.name: "training state" for tensor in plan.tensors if is_training(tensor.name)}
