"""Make the certificates of this folder again: `python3 tests/support/certs/make.py`. Needs the openssl command line.

The authority's key is thrown away: nothing but these files will ever be signed by it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
BEGIN, END, LONG_AGO, AGO = "20250101000000Z", "21250101000000Z", "20200101000000Z", "20210101000000Z"
LEAVES = {
    "localhost": ("DNS:localhost,IP:127.0.0.1,IP:::1", BEGIN, END),
    "wrong_host": ("DNS:elsewhere.invalid", BEGIN, END),
    "expired": ("DNS:localhost,IP:127.0.0.1,IP:::1", LONG_AGO, AGO),
}
# Python 3.13 verifies strictly (RFC 5280): key usage and key identifiers must be there.
CONFIG = """
[ca]
default_ca = own
[own]
new_certs_dir = .
database = index
rand_serial = yes
default_md = sha256
unique_subject = no
policy = any
certificate = ca.pem
private_key = ca.key
[any]
commonName = supplied
[req]
distinguished_name = empty
prompt = no
[empty]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def request(folder: Path, name: str, common_name: str) -> None:
    """A key and a signing request for it."""
    options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", "-new", *options, "-config", "config", "-subj", f"/CN={common_name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip


def sign(folder: Path, name: str, extensions: str, begin: str, end: str, *options: str) -> None:
    files = ("-in", f"{name}.csr", "-out", f"{name}.pem")
    dates = ("-startdate", begin, "-enddate", end)
    openssl(folder, "ca", "-batch", "-notext", "-config", "config", "-extensions", extensions,
            *dates, *files, *options)  # fmt: skip


def make(folder: Path) -> None:
    (folder / "config").write_text(CONFIG)
    (folder / "index").touch()
    request(folder, "ca", "cfchat test authority")
    sign(folder, "ca", "authority", BEGIN, END, "-selfsign")
    (HERE / "ca.pem").write_text((folder / "ca.pem").read_text())
    for name, (names, begin, end) in LEAVES.items():
        (folder / "config").write_text(f"{CONFIG}subjectAltName = {names}\n")
        request(folder, name, name)
        sign(folder, name, "leaf", begin, end)
        both = (folder / f"{name}.pem").read_text() + (folder / f"{name}.key").read_text()
        (HERE / f"{name}.pem").write_text(both)
    self_signed(folder)
    company(folder)
    chain(folder)


def self_signed(folder: Path) -> None:
    """The right names, signed by nobody whom anybody trusts."""
    options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "36500")
    names = ("-subj", "/CN=self_signed", "-addext", f"subjectAltName={LEAVES['localhost'][0]}")
    openssl(folder, "req", "-x509", *options, *names, "-keyout", "self.key", "-out", "self.pem")
    (HERE / "self_signed.pem").write_text((folder / "self.pem").read_text() + (folder / "self.key").read_text())


def company(folder: Path) -> None:
    """A leaf such as companies' proxies make, which a strict look refuses: it does not name its authority's key."""
    (folder / "config").write_text(CONFIG)
    request(folder, "own_ca", "company")
    openssl(folder, "x509", "-req", "-in", "own_ca.csr", "-signkey", "own_ca.key", "-out", "own_ca.pem",
            "-days", "36500", "-extfile", "config", "-extensions", "authority")  # fmt: skip
    request(folder, "own", "localhost")
    leaf = CONFIG.replace("authorityKeyIdentifier = keyid", f"subjectAltName = {LEAVES['localhost'][0]}")
    (folder / "config").write_text(f"{leaf}authorityKeyIdentifier = none\n")
    openssl(folder, "x509", "-req", "-in", "own.csr", "-CA", "own_ca.pem", "-CAkey", "own_ca.key", "-CAcreateserial",
            "-out", "own.pem", "-days", "36500", "-extfile", "config", "-extensions", "leaf")  # fmt: skip
    (HERE / "company_ca.pem").write_text((folder / "own_ca.pem").read_text())
    (HERE / "company.pem").write_text((folder / "own.pem").read_text() + (folder / "own.key").read_text())


def chain(folder: Path) -> None:
    """A leaf of an authority between it and a root, without that authority's certificate: an incomplete chain."""
    names = f"subjectAltName = {LEAVES['localhost'][0]}\n"
    for name, signer, section in (
        ("root", "", "authority"),
        ("between", "root", "authority"),
        ("end", "between", "leaf"),
    ):
        (folder / "config").write_text(CONFIG + (names if section == "leaf" else ""))
        request(folder, name, name)
        by = (
            ("-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-CAcreateserial")
            if signer
            else ("-signkey", "root.key")
        )
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-out", f"{name}.pem", "-days", "36500",
                "-extfile", "config", "-extensions", section)  # fmt: skip
    (HERE / "chain_ca.pem").write_text((folder / "root.pem").read_text())
    (HERE / "chain_incomplete.pem").write_text((folder / "end.pem").read_text() + (folder / "end.key").read_text())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        make(Path(folder))
