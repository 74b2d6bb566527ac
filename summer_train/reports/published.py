"""Published decoding results, as numbers with their sources: drawn beside ours with `report --published`.

Compare kappa (and AUROC) only: F1 and areas under precision-recall curves were published for the rarer class.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

SOURCE = (
    "Gerken et al., Decoding movie content from neuronal population activity in the human medial temporal lobe; "
    "notebooks of the figures in the data set's repository, release 1.0.0"
)
CONDITIONS = "LSTM on windows of 20 bins of 80 ms, all 2,286 units, five folds, buffer 32 s unless said"


class Published(NamedTuple):
    """A published Cohen's kappa: mean over folds, and its standard deviation where it was given."""

    mean: float
    sd: float | None = None


KAPPA_BY_LABEL: dict[str, Published] = {
    "summer": Published(0.309, 0.110),
    "tom": Published(0.230, 0.121),
    "mckenzie": Published(0.316, 0.163),
    "persons": Published(0.360, 0.096),
    "scenes": Published(0.201, 0.064),
    "camera-cuts": Published(0.183, 0.030),
    "days-of-summer": Published(0.762),
    "indoor-setting": Published(0.311, 0.119),
}

KAPPA_BY_BUFFER: dict[str, dict[str, Published]] = {
    "summer": {
        "random": Published(0.987), "4": Published(0.584), "8": Published(0.539), "12": Published(0.457),
        "16": Published(0.429), "20": Published(0.378), "24": Published(0.349), "28": Published(0.340),
        "32": Published(0.309), "36": Published(0.249), "40": Published(0.331), "44": Published(0.259),
    }
}  # fmt: skip
"""Label -> buffer in seconds, or a random split."""

KAPPA_BY_REGION: dict[str, dict[str, Published]] = {
    "summer": {"A": Published(0.285), "H": Published(0.091), "EC": Published(0.191), "PHC": Published(0.171)},
    "scenes": {"A": Published(0.051), "H": Published(0.055), "EC": Published(0.151), "PHC": Published(0.206)},
}
"""Label -> brain region or group."""


def published_kappa(row: Mapping[str, Any]) -> Published | None:
    """Return the published kappa of a model's label, buffer and regions, a row of study.csv, if there is one."""
    label, region = row["label_name"], row["brain_regions"]
    buffer = "random" if row["split"] == "random" else f"{row['buffer'] or 0:g}"
    if region != "all":
        return KAPPA_BY_REGION.get(label, {}).get(region) if buffer == "32" else None
    return KAPPA_BY_LABEL.get(label) if buffer == "32" else KAPPA_BY_BUFFER.get(label, {}).get(buffer)
