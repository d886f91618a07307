"""What the tests of identify share: plans of names and shapes, since nothing else decides."""

from ckptool.identify.identify import identify
from ckptool.identify.identity import Identity
from ckptool.tensor import Inline, Plan, Tensor
from fixtures import manifests
from fixtures.manifests import Manifest


def plan_of(manifest: Manifest, metadata: dict[str, str] | None = None, prefix: str = "") -> Plan:
    tensors = tuple(Tensor(prefix + name, dtype, shape, Inline(b"")) for name, (dtype, shape) in manifest.items())
    return Plan("safetensors", tensors, metadata=metadata or {})


def known(manifest: Manifest, metadata: dict[str, str] | None = None, prefix: str = "") -> Identity:
    return identify(plan_of(manifest, metadata, prefix))


def narrow(manifest: Manifest, factor: int) -> Manifest:
    """Channels divided, widths that come from outside kept: text and label embeddings, and what reads them.

    So are small models made for tests: their UNets are thin, but take the text of a real encoder.
    """
    made: Manifest = {}
    for name, (dtype, shape) in manifest.items():
        outside = name.startswith(TEXT) or ".text_model." in name
        reads = name.endswith(READS) and len(shape) == 2
        dims = shape if outside else tuple(d // factor if d % 64 == 0 else d for d in shape)
        made[name] = (dtype, (dims[0], shape[1]) if reads and not outside else dims)
    return made


TEXT = ("cond_stage_model.", "conditioner.", "text_encoder", "lora_te", "embeddings.", "encoder.layers")
READS = (
    "attn2.to_k.weight", "attn2.to_v.weight", "attn2_to_k.lora_down.weight", "attn2_to_v.lora_down.weight",
    "attn2_to_k.hada_w1_b", "attn2_to_k.hada_w2_b", "label_emb.0.0.weight", "add_embedding.linear_1.weight",
)  # fmt: skip


def load(name: str, factor: int = 1) -> Manifest:
    return manifests.scaled(manifests.load(name), factor)
