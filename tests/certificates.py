"""Certificates for tests, made by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files: a certificate, its key, and that of the CA."""

    certificate: str
    key: str
    ca: str

    def environment(self) -> dict[str, str]:
        """What tells Ray, and this package, to use it."""
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": self.certificate,
            "RAY_TLS_SERVER_KEY": self.key,
            "RAY_TLS_CA_CERT": self.ca,
        }


def make_ca(folder: Path, name: str, hosts: str = "IP:127.0.0.1") -> Certificate:
    """A CA, and a certificate that it has signed, for ``hosts``, in openssl's words."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program here to make certificates")
    ca, ca_key, key, request, certificate = (
        str(folder / f"{name}-{part}.pem") for part in ("ca", "ca-key", "key", "request", "certificate")
    )
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _run([*new, "-x509", "-days", "2", "-subj", f"/CN={name} CA", "-keyout", ca_key, "-out", ca])
    _run([*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request])
    extensions = folder / f"{name}-extensions"
    extensions.write_text(f"subjectAltName={hosts}\n")
    sign = ["openssl", "x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", ca_key]
    sign += ["-extfile", str(extensions)]
    _run([*sign, "-set_serial", "1", "-out", certificate])
    return Certificate(certificate, key, ca)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
