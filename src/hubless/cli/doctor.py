"""``hubless doctor``: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import importlib
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from hubless.errors import ConfigError, HublessError

app = typer.Typer(add_completion=False)

NOWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737); asking the system for a route to it sends nothing
WAIT = 10.0  # seconds for another program, or for an answer from outside


class Finding(NamedTuple):
    """One line; ``bad`` alone makes the exit code 1."""

    state: Literal["ok", "note", "bad"]
    what: str
    text: str


@app.command()
def doctor(
    stun: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a STUN server to ask for the address that others see; two tell the kind."),
    ] = None,
) -> None:
    """What works on this machine: packages, extras, network, keys, clock. Asks nobody outside unless told whom."""
    servers = [_address(text) for text in stun or []]
    worst = False
    for finding in findings(servers):
        mark = {"ok": "ok  ", "note": "-   ", "bad": "BAD "}[finding.state]
        typer.echo(f"{mark} {finding.what:<12} {finding.text}")
        worst |= finding.state == "bad"
    raise typer.Exit(int(worst))


def findings(servers: list[tuple[str, int]]) -> Iterator[Finding]:
    """Everything that is looked at, in order; nothing heavy is imported before it is its turn."""
    yield _python()
    yield _torch()
    yield from _extras()
    yield _loopback()
    yield _tls()
    yield _ed25519()
    yield _key_files()
    yield _cores()
    yield _namespaces()
    yield _npm()
    yield from _nat(servers)
    yield _clock()


def _python() -> Finding:
    return Finding("ok", "Python", f"{sys.version.split()[0]} on {sys.platform}")


def _torch() -> Finding:
    try:
        torch = importlib.import_module("torch")
        total = float((torch.ones(2, 2) @ torch.ones(2, 2)).sum())
    except Exception as error:
        return Finding("bad", "torch", f"does not work ({error}); pip install torch")
    where = "CUDA" if torch.cuda.is_available() else "CPU only"
    return Finding("ok" if total == 8 else "bad", "torch", f"{torch.__version__}, {where}")


def _extras() -> Iterator[Finding]:
    """Each optional set of packages: versions, or how to install it."""
    needs: dict[str, list[str]] = {}
    for line in metadata("hubless").get_all("Requires-Dist") or []:
        if found := re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", line):
            needs.setdefault(found[1], []).append(re.split(r"[\s\[(<>=!~;]", line.strip(), maxsplit=1)[0])
    for extra, packages in needs.items():
        if extra != "dev":
            missing = [package for package in packages if _version(package) is None]
            if missing:
                yield Finding("note", extra, f"{', '.join(missing)} not installed: pip install 'hubless[{extra}]'")
            else:
                yield Finding("ok", extra, ", ".join(f"{package} {_version(package)}" for package in packages))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT):
                return Finding("ok", "loopback", f"a port opens and answers ({port})")
    except OSError as error:
        return Finding("bad", "loopback", f"no port on 127.0.0.1: {error}")


def _tls() -> Finding:
    try:
        import ssl
    except ImportError as error:
        return Finding("bad", "TLS", f"this Python has no ssl: {error}")
    if not ssl.HAS_TLSv1_3:
        return Finding("bad", "TLS", f"{ssl.OPENSSL_VERSION} has no TLS 1.3")
    return Finding("ok", "TLS", f"1.3, {ssl.OPENSSL_VERSION}")


def _ed25519() -> Finding:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        key.public_key().verify(key.sign(b"hubless"), b"hubless")
    except Exception as error:
        return Finding("bad", "Ed25519", f"signatures do not work: {error!r}")
    return Finding("ok", "Ed25519", f"signs and verifies, cryptography {_version('cryptography')}")


def _key_files() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        mode = path.stat().st_mode & 0o777
    if mode != 0o600:
        return Finding(
            "note", "key files", f"made with mode {mode:o} here, not 600: keep the folder of keys to yourself"
        )
    return Finding("ok", "key files", "mode 600 holds")


def _cores() -> Finding:
    from hubless.run.machine import machine

    facts = machine()
    memory = f", {facts['memory_gb']} GB of memory" if "memory_gb" in facts else ""
    return Finding("ok", "machine", f"{facts['cores']} cores{memory}, {facts['processor']}")


def _namespaces() -> Finding:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return Finding("note", "namespaces", "needs root; tests of NAT in network namespaces are skipped")
    done = _output("unshare", "--net", "true")
    if done is None:
        return Finding("note", "namespaces", "root, but no network namespaces; tests of NAT are skipped")
    tool = "" if shutil.which("ip") else "; the tool ip is missing"
    return Finding("note" if tool else "ok", "namespaces", f"root, network namespaces work{tool}")


def _npm() -> Finding:
    found = _output("npm", "--version")
    if found is None:
        return Finding("note", "npm", "not there; the test against a js-libp2p peer is skipped")
    return Finding("ok", "npm", found)


def _nat(servers: list[tuple[str, int]]) -> Iterator[Finding]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((NOWHERE, 9))
            local = sock.getsockname()[0]
        except OSError:
            yield Finding("note", "address", "no route to other machines; loopback only")
            return
    hidden = ipaddress.ip_address(local).is_private
    kind = "private: a NAT stands between it and the internet" if hidden else "public"
    yield Finding("ok", "address", f"{local}, {kind}")
    if not servers:
        yield Finding("note", "NAT type", "cannot be told without asking outside: --stun HOST:PORT, twice")
        return
    from hubless.net import stun

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        try:
            seen = [stun.mapped(sock, server, WAIT) for server in servers]
        except HublessError as error:
            yield Finding("note", "NAT type", str(error))
            return
        own = (local, sock.getsockname()[1])
    where = f"seen as {seen[0][0]}:{seen[0][1]}"
    said = stun.kind(seen[0], seen[1], own) if len(seen) > 1 else "a second --stun tells the kind"
    yield Finding("ok", "NAT type", f"{where}; {said}")


def _clock() -> Finding:
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    said = _output("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if said == "yes":
        return Finding("ok", "clock", f"{now}, synchronised")
    why = "not synchronised" if said == "no" else "whether it is synchronised cannot be told"
    return Finding("note", "clock", f"{now}; {why}. Peers of a deployment must agree to a fraction of a round")


def _output(*words: str) -> str | None:
    """What a program prints; None when it is not there, fails or takes too long."""
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"stun = {text!r}: must be HOST:PORT")
    return host, int(port)
