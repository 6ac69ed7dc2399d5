"""``netcore certs``: a certificate authority for one cluster, and certificates for its nodes.

Needs the package ``cryptography``, which the extra ``netcore[tls]`` brings. Running nodes do not
need it: what is made here are PEM files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netcore import wire

from . import CommandError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["CA_CERT", "CA_KEY", "DEFAULT_CA_DAYS", "DEFAULT_NODE_DAYS", "run_init", "run_issue"]

CA_CERT: Final = "ca.pem"
CA_KEY: Final = "ca.key"
DEFAULT_CA_DAYS: Final = 3_650
DEFAULT_NODE_DAYS: Final = 365
#: For nodes whose clock is behind that of the machine where certificates are made.
EARLIER: Final = timedelta(minutes=10)


def run_init(directory: Path, name: str, days: int) -> int:
    """Make a certificate authority: ``ca.pem``, for every node, and ``ca.key``, for nobody else.

    Args:
        directory: Where to put them; made if it is not there.
        name: What the authority is called; for people only.
        days: How long it is valid.

    Raises:
        CommandError: One of the files exists, something cannot be written, or ``cryptography`` is
            not installed.
    """
    _need_cryptography()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot make {directory}: {exc.strerror}") from None
    cert_file, key_file = directory / CA_CERT, directory / CA_KEY
    _refuse_existing([cert_file, key_file])
    key = _new_key()
    cert = _sign(_name(name), key, issuer=None, issuer_key=key, days=days, node_id=None)
    _write_pair(cert_file, cert, key_file, key)
    print(f"{cert_file}: give it to every node")
    print(f"{key_file}: keep it safe; who has it can be any node")
    return 0


def run_issue(directory: Path, node_ids: Sequence[int], days: int) -> int:
    """Make a certificate and a key for each node: ``node-ID.pem`` and ``node-ID.key``.

    Args:
        directory: Where the authority is, and where they go.
        node_ids: The nodes.
        days: How long the certificates are valid.

    Raises:
        CommandError: There is no authority, it ends earlier, one of the files exists, or
            ``cryptography`` is not installed.
    """
    _need_cryptography()
    ca, ca_key = _read_ca(directory / CA_CERT, directory / CA_KEY)
    left = (ca.not_valid_after_utc - datetime.now(timezone.utc)).days
    if days > left:
        raise CommandError(f"the authority in {directory} is valid for {left} days: give --days")
    pairs = [
        (node_id, directory / f"node-{node_id}.pem", directory / f"node-{node_id}.key")
        for node_id in dict.fromkeys(node_ids)
    ]
    for node_id, _, _ in pairs:
        if not 0 <= node_id <= wire.MAX_NODE_ID:
            raise CommandError(f"{node_id} is no node id: 0..{wire.MAX_NODE_ID}")
    _refuse_existing([file for _, *files in pairs for file in files])
    for node_id, cert_file, key_file in pairs:
        key = _new_key()
        subject = _name(f"netcore node {node_id}")
        cert = _sign(subject, key, issuer=ca, issuer_key=ca_key, days=days, node_id=node_id)
        _write_pair(cert_file, cert, key_file, key)
        print(
            f"netcore node --id {node_id} --tls-ca {directory / CA_CERT} "
            f"--tls-cert {cert_file} --tls-key {key_file}"
        )
    return 0


def _need_cryptography() -> None:
    try:
        import cryptography.x509  # noqa: F401
    except ImportError:
        raise CommandError(
            "certificates are made with the package cryptography, which is not installed here: "
            "python -m pip install 'netcore[tls]'"
        ) from None


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509

    try:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    except ValueError as exc:
        raise CommandError(f"{text!r} cannot be the name of an authority: {exc}") from None


def _sign(
    subject: x509.Name,
    key: EllipticCurvePrivateKey,
    *,
    issuer: x509.Certificate | None,
    issuer_key: EllipticCurvePrivateKey,
    days: int,
    node_id: int | None,
) -> x509.Certificate:
    """Return a certificate: of a node, or with neither node nor issuer of an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.now(timezone.utc)
    is_ca = node_id is None
    issuer_id = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, 0 if is_ca else None), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
            critical=False,
        )
    )
    if node_id is not None:
        uri = x509.UniformResourceIdentifier(f"{wire.TLS_NODE_URI}{node_id}")
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(issuer_key, SHA256())


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _read_ca(cert_file: Path, key_file: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        cert_text, key_text = cert_file.read_bytes(), key_file.read_bytes()
        is_open = os.name == "posix" and key_file.stat().st_mode & 0o077
    except FileNotFoundError as exc:
        raise CommandError(f"there is no {exc.filename}: `netcore certs init` makes it") from None
    except OSError as exc:
        raise CommandError(f"cannot read {exc.filename}: {exc.strerror}") from None
    try:
        cert = x509.load_pem_x509_certificate(cert_text)
        key = load_pem_private_key(key_text, password=None)
    except (ValueError, TypeError):  # not PEM; or encrypted
        raise CommandError(f"{cert_file} and {key_file} are not what certs init makes") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise CommandError(f"{key_file} is not the key of {cert_file}")
    if is_open:
        print(f"warning: others can read {key_file}; chmod 600 {key_file}", file=sys.stderr)
    return cert, key


def _refuse_existing(files: Sequence[Path]) -> None:
    for file in files:
        if os.path.lexists(file):
            raise CommandError(f"{file} exists already: delete it first, or choose another --dir")


def _write_pair(
    cert_file: Path, cert: x509.Certificate, key_file: Path, key: EllipticCurvePrivateKey
) -> None:
    """Write both files or none."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(key_file, key_text, 0o600)
    try:
        _write_new(cert_file, cert.public_bytes(Encoding.PEM), 0o644)
    except BaseException:
        key_file.unlink()
        raise


def _write_new(file: Path, text: bytes, mode: int) -> None:
    try:
        # O_EXCL: nothing is ever overwritten, not even by two commands at once.
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as stream:
            stream.write(text)
    except FileExistsError:
        raise CommandError(f"{file} exists already: delete it first") from None
    except OSError as exc:
        raise CommandError(f"cannot write {file}: {exc.strerror}") from None
