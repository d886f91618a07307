"""What a signature of a receipt has to be: by this key, and for exactly this name and these bytes."""

import hashlib
import json
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptool.errors import UsageError
from ckptool.sanitize.receipts.receipt_file import read_small, why
from ckptool.text import escape

MOST = 1 << 20
"""Bytes of a key or a signature; one of a receipt has less than 2 kB."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
NO_KEY = "is no key of the curves P-256, P-384 or P-521"
STATEMENT = ("application/vnd.in-toto+json", "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0")
NONE = "is no signature"


@dataclass(frozen=True, slots=True)
class Verifier:
    """One public key, and a folder for what model-signing wants to read from files."""

    public: Path
    hint: str
    folder: "tempfile.TemporaryDirectory[str]"

    @classmethod
    def of(cls, key: Any) -> "Verifier":
        """Of a public key as `cryptography` has it."""
        from cryptography.hazmat.primitives import serialization

        pem: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        folder = tempfile.TemporaryDirectory(prefix="ckptool-")
        public = Path(folder.name, "public.pem")
        public.write_bytes(pem)
        return cls(public, hashlib.sha256(pem).hexdigest(), folder)

    @classmethod
    def read(cls, path: Path) -> "Verifier":
        """Raises UsageError where the extra is not there, or no public key is."""
        check_extra("--key")
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        hint = "give the public one: openssl pkey -in key.pem -pubout -out public.pem"
        try:
            key = load_pem_public_key(read_key(path))
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"{escape(str(path), 1000)}: is no public key in PEM", hint) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            raise UsageError(f"{escape(str(path), 1000)}: {NO_KEY}", hint)
        return cls.of(key)

    def problem(self, name: str, data: bytes, signature: bytes) -> str:
        """What keeps `signature` from being one of `data` under this name; empty where nothing does."""
        try:
            bundle = bundle_of(json.loads(signature))
            told = differs(json.loads(b64decode(bundle["dsseEnvelope"]["payload"])), name, data)
        except (ValueError, LookupError, TypeError, RecursionError):
            return NONE
        if bundle["verificationMaterial"]["publicKey"]["hint"] != self.hint:
            return "is by another key"
        return told or ("" if self.holds(name, data, bundle) else "is not valid: it was changed, or made up")

    def holds(self, name: str, data: bytes, bundle: dict[str, Any]) -> bool:
        """Whether model-signing finds it good. It adds what a statement says to its settings, so each gets new ones."""
        from model_signing import verifying

        file, paper = Path(self.folder.name, as_signed(name)), Path(self.folder.name, "signature")
        file.write_bytes(data)
        paper.write_text(json.dumps(bundle))
        config: Any = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=self.public).set_hashing_config(plain())
        try:
            config.verify(file, paper)
        except Exception:  # whatever its parsers make of hostile bytes, it has not found them good
            return False
        finally:
            file.unlink()
        return True


def bundle_of(found: Any) -> dict[str, Any]:
    """What counts in a bundle and nothing else, so that no two readers see different things in it."""
    envelope = found["dsseEnvelope"]
    [one] = envelope["signatures"]
    hint, sig = found["verificationMaterial"]["publicKey"]["hint"], one["sig"]
    if envelope["payloadType"] != STATEMENT[0] or not isinstance(hint, str):
        raise ValueError(NONE)
    return {
        "mediaType": found["mediaType"],
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": b64encode(b64decode(envelope["payload"], validate=True)).decode(),
            "payloadType": STATEMENT[0],
            "signatures": [{"sig": b64encode(b64decode(sig, validate=True)).decode(), "keyid": ""}],
        },
    }


def differs(statement: Any, name: str, data: bytes) -> str:
    """How a statement is not about this file alone. Raises as it is no statement at all."""
    predicate = statement["predicate"]
    if (STATEMENT[0], statement["_type"], statement["predicateType"]) != STATEMENT:
        raise ValueError(NONE)
    [subject], [resource] = statement["subject"], predicate["resources"]
    if subject["name"] != as_signed(name):
        return f"is a signature of another file: {escape(str(subject['name']))}"
    expected = {"name": ".", "algorithm": "sha256", "digest": hashlib.sha256(data).hexdigest()}
    if resource != expected or predicate["serialization"]["method"] != "files":
        return "is a signature of other bytes than the file has now"
    return ""


def plain() -> Any:
    """How model-signing is to hash: the file that it is given, and nothing left out."""
    from model_signing import hashing

    config: Any = hashing.Config()  # type: ignore[no-untyped-call]
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)


def as_signed(name: str) -> str:
    """The name of a file as a statement, which is UTF-8, can have it."""
    return name.encode("utf-8", "replace").decode()


def check_extra(option: str) -> None:
    """Raises UsageError where the extra is not installed."""
    try:
        import model_signing.signing
        import model_signing.verifying  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{option} needs model-signing: {error.name} is missing", "pip install 'ckptool[sign]'"
        ) from error


def read_key(path: Path) -> bytes:
    """Raises UsageError when it cannot be read; a link is followed, for secrets are often mounted as links."""
    try:
        return read_small(path.resolve(), MOST)
    except (OSError, RuntimeError) as error:
        told = why(error) if isinstance(error, OSError) else "its links lead in a circle"
        raise UsageError(f"{escape(str(path), 1000)}: the key cannot be read: {told}", "check the path") from error
