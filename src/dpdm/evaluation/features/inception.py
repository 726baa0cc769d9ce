"""The Inception network that FID means: found, or downloaded and checked; never replaced.

``inception-2015-12-05.pt`` is NVIDIA's direct translation to TorchScript of the network of the
first FID paper; it resizes images itself as the original did. The SHA-256 is the one that
k-diffusion and others check the same file against.
"""

from __future__ import annotations

from pathlib import Path

from dpdm.data.catalogue import Remote
from dpdm.data.download import (
    Progress,
    cache_folder,
    data_folders,
    download_file,
    matches,
)
from dpdm.data.paths import user_path
from dpdm.errors import DpdmError, RequestError
from dpdm.evaluation.features.extractor import INCEPTION, Extractor
from dpdm.evaluation.features.torchscript import network_fingerprint, open_network

FILE = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
DOWNLOAD = "download"
NO_INCEPTION = "none"
REMOTE = Remote(
    FILE,
    (f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}",),
    f"sha256:{SHA256}",
)
INCEPTION_ABSENT = (
    f"FID, KID and the Inception score are absent: they need {FILE} "
    f"(96 MB); fetch it with --inception {DOWNLOAD}, name it with --inception PATH, or put it into "
    "inception/ in the folder of DPDM_DATA or DPDM_CACHE."
)


def find_inception(given: str | None = None, progress: Progress | None = None) -> Extractor | None:
    """The network by path, or from ``$DPDM_DATA/inception/`` or the cache; None where it is not.

    given: a path; "download", which fetches the file into the cache unless it is there; or "none",
    which leaves it out though it may be there.
    A given file with another SHA-256 is used, and its description says that it is another.
    Raises RequestError where the given file does not exist, DpdmError where a file that was found
    is not the published one or the download fails.
    """
    if given == NO_INCEPTION:
        return None
    if given is not None and given != DOWNLOAD:
        path = user_path(given)
        if not path.is_file():
            raise RequestError(f"--inception {given}: no such file; {INCEPTION_ABSENT}")
        return _opened(path)
    for folder in data_folders(INCEPTION):
        if (folder / FILE).is_file():
            if not matches(folder / FILE, REMOTE.digest):
                raise DpdmError(
                    f"{folder / FILE}: not the published file (its checksum is not "
                    f"{REMOTE.digest}); delete it, and fetch it with --inception {DOWNLOAD}"
                )
            return _opened(folder / FILE)
    return _opened(_fetched(progress)) if given == DOWNLOAD else None


def _opened(path: Path) -> Extractor:
    found = open_network(path, INCEPTION)
    official = found.fingerprint == network_fingerprint(SHA256)
    description = (
        "the Inception network of FID (2015-12-05)"
        if official
        else f"{path.name}, given as Inception, but not the published file: its figures are not "
        "comparable with any FID in the literature"
    )
    if found.probabilities is None:
        raise RequestError(
            f"--inception {path}: its forward does not know return_features; it is not {FILE}. "
            f"Another network goes to --features"
        )
    return Extractor(
        name=INCEPTION,
        fingerprint=found.fingerprint,
        description=description,
        compute=found.compute,
        probabilities=found.probabilities,
    )


def _fetched(progress: Progress | None) -> Path:
    path = cache_folder() / INCEPTION / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_file(REMOTE, path, progress or (lambda name, done, total: None))
    except OSError as error:
        raise DpdmError(
            f"{path.parent}: cannot be written ({error.strerror or error}); set DPDM_CACHE to a "
            "folder with room"
        ) from None
    return path
