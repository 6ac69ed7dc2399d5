"""Certificates of every kind, good and bad, made once per process."""

from __future__ import annotations

import atexit
import functools
import shutil
import ssl
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from netcore import TlsFiles

__all__ = ["Authority", "cluster", "context", "contexts", "files", "other_cluster"]

DAY = timedelta(days=1)


class Authority:
    """A CA, and what it has signed, as files."""

    def __init__(self, name: str, home: Path) -> None:
        self.home = home
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.cert = home / "ca.pem"
        self._made = 0
        constraints = x509.BasicConstraints(True, None)
        builder = self._builder(self.name, self.key, (-DAY, DAY))
        builder = builder.add_extension(constraints, critical=True)
        self._write(self.cert, builder)

    def issue(
        self,
        uris: Sequence[str],
        *,
        valid: tuple[timedelta, timedelta] = (-DAY, DAY),
        common_name: str = "somebody",
        password: bytes = b"",
    ) -> TlsFiles:
        """Return the files of a new certificate with these URIs and this time around now."""
        self._made += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        names: list[x509.GeneralName] = [x509.DNSName("node.example")]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = self._builder(subject, key, valid)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert_file = self.home / f"{self._made}.pem"
        key_file = self.home / f"{self._made}.key"
        self._write(cert_file, builder)
        sealing = BestAvailableEncryption(password) if password else NoEncryption()
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
        return TlsFiles(self.cert, cert_file, key_file)

    @functools.cache  # noqa: B019 - there are two of them, for the whole process
    def node(self, node_id: int) -> TlsFiles:
        """Return the files of a node."""
        return self.issue([f"netcore:node/{node_id}"])

    def issue_by(self, member: TlsFiles, uri: str) -> TlsFiles:
        """Return a certificate that a member, who is no CA, has signed, with its own behind it."""
        signer = load_pem_private_key(Path(member.key).read_bytes(), None)
        own = x509.load_pem_x509_certificate(Path(member.cert).read_bytes())
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        made = self.issue([uri])
        forged = x509.load_pem_x509_certificate(Path(made.cert).read_bytes())
        builder = x509.CertificateBuilder(
            own.subject,
            forged.subject,
            forged.public_key(),
            forged.serial_number,
            forged.not_valid_before_utc,
            forged.not_valid_after_utc,
            list(forged.extensions),
        )
        chain = [builder.sign(signer, SHA256()), own]
        Path(made.cert).write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in chain))
        return made

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        valid: tuple[timedelta, timedelta],
    ) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
        )

    def _write(self, file: Path, builder: x509.CertificateBuilder) -> None:
        file.write_bytes(builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM))


def _new_authority(name: str) -> Authority:
    home = Path(tempfile.mkdtemp(prefix="netcore-certs-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return Authority(name, home)


@functools.cache
def cluster() -> Authority:
    """Return the CA that everybody in a test trusts."""
    return _new_authority("the cluster")


@functools.cache
def other_cluster() -> Authority:
    """Return another one."""
    return _new_authority("another cluster")


def files(node_id: int) -> TlsFiles:
    """Return the files of a node of the cluster."""
    return cluster().node(node_id)


def context(
    node: TlsFiles | None, *, outgoing: bool, ca: Authority | None = None
) -> ssl.SSLContext:
    """Return a context that checks less than netcore does: for peers that misbehave."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if outgoing else ssl.PROTOCOL_TLS_SERVER)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if ca is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(ca.cert)
    if node is not None:
        made.load_cert_chain(node.cert, node.key)
    return made


def contexts(node: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the pair that a user would make by hand."""
    pair = (
        context(node, outgoing=False, ca=cluster()),
        context(node, outgoing=True, ca=cluster()),
    )
    for made in pair:
        made.minimum_version = ssl.TLSVersion.TLSv1_3
    return pair
