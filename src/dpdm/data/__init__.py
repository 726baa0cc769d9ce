"""The private side of the input: data sets opened, checked, described and written.

Everything derived from images is in fields that start with ``private_``.
"""

from dpdm.data.dataset import Dataset, Problem, PublicFacts
from dpdm.data.download import fetch
from dpdm.data.named import list_datasets
from dpdm.data.opening import NoSplitError, check_report, open_dataset
from dpdm.data.writers import check_writable, write_samples

__all__ = [
    "Dataset",
    "NoSplitError",
    "Problem",
    "PublicFacts",
    "check_report",
    "check_writable",
    "fetch",
    "list_datasets",
    "open_dataset",
    "write_samples",
]
