"""Whatever a file's names, shapes, dtypes and metadata are: it is labelled, and the report is one in every form."""

import json
from random import Random

import pytest

from ckptool.identify.identify import identify
from ckptool.identify.identity import ALGORITHMS, KINDS
from ckptool.identify.inspect_page import markdown_lines, page_section
from ckptool.identify.inspect_words import inspect_lines
from ckptool.identify.inspection import report_of
from ckptool.tensor import BITS, Inline, Plan, Tensor
from fixtures import manifests
from fixtures.families import NETWORKS, OTHERS

NAMES = sorted(
    {name for layout in manifests.names() for name in list(manifests.load(layout))[::25]}
    | {name for _, _, shapes in NETWORKS.values() for name in shapes}
    | {name for *_, build in OTHERS.values() for name in list(build())[:50]}
    | {"v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "scaled_fp8", "difference", "model_ema.decay"}
)
ENDS = (
    ".oft_blocks", ".a1.weight", ".b2.weight", ".on_input", ".weight", ".diff", ".lokr_w1", ".lokr_w2_a", ".dora_scale",
    ".alpha", ".lora_down.weight", ".lora_A.default.weight", ".hada_w1_b", ".scale", ".position_ids",
)  # fmt: skip
STARTS = ("module.", "model.", "net.", "unet.", "lora_unet_", "control_model.", "model.diffusion_model.", "")
DIMS = (0, 1, 3, 4, 8, 9, 16, 48, 64, 320, 768, 1024, 2048, 2816, 2**62)
METADATA = {
    "ss_base_model_version": ("sdxl", "sd_v1", "", "\x1b"), "ss_v2": ("True", "False", "\0"),
    "modelspec.architecture": ("stable-diffusion-v1/lora", "flux-1-dev", "/" * 99), "x": ("<script>", "\ud800"),
    "modelspec.prediction_type": ("v", "epsilon", "e" * 10_000),
}  # fmt: skip


def hostile(chance: Random) -> Plan:
    """A plan of real names, some of them broken, with shapes of anything."""
    tensors: dict[str, Tensor] = {}
    for _ in range(chance.choice([1, 2, 5, 30, 200])):
        name = chance.choice(NAMES)
        match chance.randrange(8):
            case 0:
                name = name.rpartition(".")[0] + chance.choice(ENDS)
            case 1:
                name = chance.choice(STARTS) + name
            case 2:
                at = chance.randrange(len(name) + 1)
                name = name[:at] + chance.choice(["\0", ".", "_", "9", "٣", "\ud800", "²", "\x1b"]) + name[at:]
        shape = tuple(chance.choice(DIMS) for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 4, 7])))
        tensor = Tensor(name, chance.choice(list(BITS)), shape, Inline(b""))
        data = chance.randbytes(tensor.nbytes) if tensor.nbytes < 5000 else b""
        tensors[name] = Tensor(name, tensor.dtype, shape, Inline(data))
    metadata = {key: chance.choice(values) for key, values in METADATA.items() if chance.random() < 0.5}
    return Plan("safetensors", tuple(tensors.values()), metadata=metadata)


@pytest.mark.parametrize("seed", range(8))
def test_anything_is_labelled_and_reported(seed: int) -> None:
    chance = Random(seed)
    for _ in range(40):
        plan = hostile(chance)
        found = identify(plan, chance.choice([None, b"parameterization: v", chance.randbytes(50)]))
        assert found.kind in KINDS
        assert found.algorithm is None or found.algorithm in ALGORITHMS
        assert bool(found.candidates) == (found.base == "ambiguous")
        assert found.evidence
        report = report_of("x", plan, found)
        json.dumps(report)
        for line in inspect_lines(report, True):
            assert "\x1b" not in line
            assert "\0" not in line
        assert "<script" not in page_section(report)
        assert "\n".join(markdown_lines(report))
