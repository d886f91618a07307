"""The shapes and names of the plain LoRA that another algorithm's module becomes."""

from collections.abc import Iterable

from ckptool.identify.adapters import AdapterModule

# Layers of the UNet, in LDM and diffusers naming, that are convolutions of 3 × 3 in every Stable Diffusion.
THREE = (
    "_conv1", "_conv2", "_downsamplers_0_conv", "_upsamplers_0_conv", "_1_conv", "_2_conv", "_conv_in", "_conv_out",
    "_in_layers_2", "_out_layers_3", "_0_op", "_unet_out_2", "_input_blocks_0_0",
)  # fmt: skip
# Convolutions of 1 × 1 in every one of them.
ONE = ("_conv_shortcut", "_skip_connection")
# Convolutions of 1 × 1 in SD1 (context of 768), linear in the others.
ONE_IN_SD1 = ("_proj_in", "_proj_out")
SD1_CONTEXT = 768


def is_sd1(modules: Iterable[AdapterModule]) -> bool:
    """Whether the file's cross attention reads text embeddings of SD1."""
    for module in modules:
        shape = module.shape if flat(module.name).endswith("_attn2_to_k") else None
        if shape is not None:
            return shape[1] == SD1_CONTEXT
    return False


def full_shape(module: AdapterModule, sd1: bool) -> tuple[int, ...]:
    """Rows, columns and kernel of an update whose kernel may hide in its columns: the layer's name tells it then.

    Where neither tells, the columns stay as they are: loaders that add the product to the weight reshape it.
    """
    shape = module.shape
    assert shape is not None
    name = flat(module.name)
    if len(shape) > 2 or "unet" not in name:
        return shape
    rows, columns = shape
    if name.endswith(THREE) and columns % 9 == 0:
        return (rows, columns // 9, 3, 3)
    if name.endswith(ONE) or (sd1 and name.endswith(ONE_IN_SD1)):
        return (rows, columns, 1, 1)
    return shape


def flat(name: str) -> str:
    return "_" + name.replace(".", "_")
