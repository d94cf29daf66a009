"""Bare Debian images, composed from Debian's packages and cached by the digest of everything that goes in."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ringfence_lab import disk
from ringfence_lab.errors import LabError
from ringfence_lab.keys import lab_key
from ringfence_lab.paths import IMAGE_FILES
from ringfence_lab.programs import require, require_space, run
from ringfence_lab.progress import Progress

SUITES = {"debian12": "bookworm", "debian13": "trixie"}
"""Image name → the Debian suite it is made of."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PACKAGES = (
    # What a minimal installation of Debian boots with…
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "grub-efi-amd64",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "e2fsprogs",
    "iproute2",
    "ca-certificates",
    # An installation has one of the busyboxes; a later change of it would repack the initramfs, minutes on an emulated CPU.
    "busybox-static",
    "debian-archive-keyring",
    # …and what ssh, sudo and Ansible need.
    "openssh-server",
    "sudo",
    "python3",
    "python3-apt",
)

_CUSTOMIZE = "ringfence-lab-customize"

_BUILD_MIB = 6000
"""Archive, unpacked tree and disk lie side by side for a moment."""


def sources(suite: str) -> list[str]:
    """The apt sources of a Debian machine of ``suite``; the image keeps them."""
    signed = f"[signed-by={KEYRING}]"
    return [
        f"deb {signed} http://deb.debian.org/debian {suite} main",
        f"deb {signed} http://deb.debian.org/debian {suite}-updates main",
        f"deb {signed} http://deb.debian.org/debian-security {suite}-security main",
    ]


def image_digest(suite: str, public_key: str, customization: dict[str, bytes], build_code: bytes) -> str:
    """A name for the image that results from these ingredients.

    :param customization: path below the image folder → content.
    :param build_code: the source of the modules that build.
    """
    ingredients = {
        "sources": sources(suite),
        "packages": PACKAGES,
        "key": public_key.strip(),
        "customization": {name: hashlib.sha256(content).hexdigest() for name, content in customization.items()},
        "code": hashlib.sha256(build_code).hexdigest(),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def overlay_archive(image_files: Path, public_key: str) -> bytes:
    """A tar archive of the files below ``root/``, the customization and root's authorized key, owned by root whoever owns the checkout."""
    root = image_files / "root"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, content: bytes, mode: int) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))

        for path in sorted(root.rglob("*")):
            if path.is_file():
                add(str(path.relative_to(root)), path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
        add(_CUSTOMIZE, (image_files / "customize.sh").read_bytes(), 0o755)
        directory = tarfile.TarInfo("root/.ssh")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(directory)
        add("root/.ssh/authorized_keys", public_key.encode(), 0o600)
    return buffer.getvalue()


def build(name: str, cache: Path, progress: Progress) -> Path:
    """The raw disk image ``name`` (a key of :data:`SUITES`), built unless the cache has it.

    :raises LabError: when a program, the keyring or space is missing, or the build fails.
    """
    require(["ssh-keygen"])
    public_key = lab_key(cache).with_suffix(".pub").read_text()
    suite = SUITES[name]
    customization = {str(path.relative_to(IMAGE_FILES)): path.read_bytes() for path in IMAGE_FILES.rglob("*") if path.is_file()}
    build_code = Path(__file__).read_bytes() + Path(disk.__file__).read_bytes()
    image = cache / f"{name}-{image_digest(suite, public_key, customization, build_code)}.raw"
    with _building(cache, name):
        if not image.exists():
            _require_tools(cache)
            _compose(suite, public_key, image, progress)
            for old in cache.glob(f"{name}-*.raw"):
                if old != image:
                    # Hosts made from it hold a link of their own.
                    old.unlink()
    return image


def _require_tools(cache: Path) -> None:
    programs = ["mmdebstrap", "mkfs.ext4", "mkfs.vfat", "mcopy", "sfdisk", "tar"]
    if os.geteuid() != 0:
        programs += ["fakeroot", "newuidmap"]
    require(programs, {KEYRING: "debian-archive-keyring"})
    require_space(cache, _BUILD_MIB, "building an image")


@contextlib.contextmanager
def _building(cache: Path, name: str) -> Iterator[None]:
    """Let one process at a time build ``name``."""
    with open(cache / f"{name}.lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compose(suite: str, public_key: str, image: Path, progress: Progress) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=image.parent))
    log = image.with_suffix(".log")
    log.unlink(missing_ok=True)
    try:
        overlay, archive, unfinished = work / "overlay.tar", work / "root.tar", work / "disk.raw"
        overlay.write_bytes(overlay_archive(IMAGE_FILES, public_key))
        progress.say(f"composing {suite} from Debian's packages (log: {log})")
        run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                # Before the packages, because they read it.
                f"--setup-hook=tar-in {overlay} /",
                # The package lists stay, as after an installation: the first apt-get update then has little to fetch.
                "--skip=cleanup/apt/lists",
                # From inside: without root, mmdebstrap's user cannot read the checkout.
                f'--customize-hook=sh "$1/{_CUSTOMIZE}" "$1" {disk.ROOT_UUID} && rm "$1/{_CUSTOMIZE}"',
                suite,
                str(archive),
                *sources(suite),
            ],
            log=log,
        )
        progress.say("writing the disk")
        disk.make_disk(archive, unfinished, work)
        os.replace(unfinished, image)
    except LabError as error:
        raise LabError(f"building {image.name} failed: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress.say(f"image ready: {image}")
