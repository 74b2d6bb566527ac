"""Train decoders on the cached SUMMER arrays.

    import lightning
    import summer_train

    data = summer_train.film_data(task="label", label_name="summer", patient_ids=[14, 20], cache_dir="cache")
    decoder = summer_train.decoder(data, hidden_size=64)
    lightning.Trainer(max_epochs=5).fit(decoder, data)             # your trainer, or your own LightningModule

    result = summer_train.fit(task="label", patient_ids=[14, 20], cache_dir="cache", max_epochs=5)   # ours, fast
    counts = summer_train.open_selection("cache", [14, 20], 80).counts()                             # plain NumPy

Options are named as those of `summer-train fit`; what raises a SummerError tells what to do in one line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from summer_prep.errors import SummerError
    from summer_train.data.selection import open_selection
    from summer_train.models.decoder import Decoder, LinearLabel, LinearNextBin
    from summer_train.reports.report import report
    from summer_train.runs.evaluate import evaluate
    from summer_train.runs.fit import decoder, film_data, fit
    from summer_train.studies.study import study

__all__ = [
    "Decoder", "LinearLabel", "LinearNextBin", "SummerError",
    "decoder", "evaluate", "film_data", "fit", "open_selection", "report", "study",
]  # fmt: skip

_HOMES = {
    "Decoder": "summer_train.models.decoder",
    "LinearLabel": "summer_train.models.decoder",
    "LinearNextBin": "summer_train.models.decoder",
    "SummerError": "summer_prep.errors",
    "decoder": "summer_train.runs.fit",
    "evaluate": "summer_train.runs.evaluate",
    "film_data": "summer_train.runs.fit",
    "figures": "summer_train.reports",
    "fit": "summer_train.runs.fit",
    "open_selection": "summer_train.data.selection",
    "report": "summer_train.reports.report",
    "study": "summer_train.studies.study",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: torch and lightning take their time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
