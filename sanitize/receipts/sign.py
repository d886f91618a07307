"""Signs receipts and sums, in the process that hands out the files: the key is in no other."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptool.errors import Malformed, UsageError
from ckptool.output import Output, write_at
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import receipt_of, signature_of
from ckptool.sanitize.receipts.receipt import is_for
from ckptool.sanitize.receipts.receipt_file import MOST as MOST_OF_RECEIPT
from ckptool.sanitize.receipts.receipt_file import read_small, receipt_in
from ckptool.sanitize.receipts.signature import CURVES, MOST, NO_KEY, Verifier, as_signed, check_extra, plain, read_key
from ckptool.text import escape

PASSWORD = "CKPTOOL_SIGN_PASSWORD"
MAKE_ONE = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


@dataclass(frozen=True, slots=True)
class Signer:
    """One private key."""

    config: Any
    verifier: Verifier
    note: str = ""
    """What people should know of the key."""

    @classmethod
    def read(cls, path: Path) -> "Signer":
        """Raises UsageError where the extra is not there, or no key that can sign is."""
        check_extra("--sign")
        from model_signing import signing

        key, password = opened(path)
        config: Any = signing.Config()  # type: ignore[no-untyped-call]
        # The passphrase in bytes, whatever its types say: `cryptography`, which gets it, takes no text.
        config.use_elliptic_key_signer(private_key=path, password=password).set_hashing_config(plain())
        return cls(config, Verifier.of(key.public_key()), note_on(path))

    def sign(self, name: str, data: bytes) -> bytes:
        """A signature of these bytes under this name: an in-toto statement in a bundle of sigstore."""
        file = Path(self.verifier.folder.name, as_signed(name))
        paper = file.with_name("signature")
        try:
            file.write_bytes(data)
            self.config.sign(file, paper)
            return paper.read_bytes()
        finally:
            file.unlink(missing_ok=True)

    def sign_file(self, path: Path, data: bytes) -> Path:
        """Writes the signature beside a file that holds these bytes."""
        target, signature = signature_of(path), self.sign(path.name, data)
        with Output(target, len(signature), force=True) as file:
            write_at(file.fd, signature, 0)
        return target

    def has_signed(self, path: Path, data: bytes) -> bool:
        """Whether a file that holds these bytes has a signature by this key."""
        try:
            return not self.verifier.problem(path.name, data, read_small(signature_of(path), MOST))
        except OSError:
            return False

    def due(self, job: Job) -> Job:
        """Done again where a receipt is not signed with this key: nobody knows who put it there, so it stays unsigned.

        Before any work, so that a file whose run was killed between receipt and signature gets both.
        """
        try:
            receipts = [(path, read_small(path, MOST_OF_RECEIPT)) for path in receipts_of(job) if os.path.lexists(path)]
        except OSError:
            return replace(job, force=True)
        return job if all(self.has_signed(*receipt) for receipt in receipts) else replace(job, force=True)

    def sign_receipts(self, job: Job) -> str | None:
        """Sign what was just made of a file; the signature as reports name it."""
        told = None
        for path in receipts_of(job):
            try:
                data = read_small(path, MOST_OF_RECEIPT)
                receipt = receipt_in(data, path)
            except (OSError, Malformed):
                continue
            if is_for(receipt, job):
                told = job.told(self.sign_file(path, data))
        return told


def receipts_of(job: Job) -> Iterator[Path]:
    yield from (receipt_of(output) for output in (job.released, job.quarantined))


def opened(path: Path) -> tuple[Any, bytes | None]:
    """A private key, and the passphrase where it needs one. Raises UsageError, which never has the one or the other."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    label, data = escape(str(path), 1000), read_key(path)
    password: bytes | None = None
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # encrypted
            password = os.environb.get(PASSWORD.encode())
            if not password:
                raise UsageError(f"{label}: is encrypted", f"put its passphrase into {PASSWORD}") from None
            key = load_pem_private_key(data, password)
    except (ValueError, UnsupportedAlgorithm):
        if password:
            raise UsageError(f"{label}: does not open with the passphrase in {PASSWORD}", "check it") from None
        raise UsageError(f"{label}: is no private key in PEM", MAKE_ONE) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(f"{label}: {NO_KEY}", MAKE_ONE)
    return key, password


def note_on(path: Path) -> str:
    told = f"{escape(str(path), 1000)}: other users can read this key"
    return told if path.stat().st_mode & 0o077 else ""
