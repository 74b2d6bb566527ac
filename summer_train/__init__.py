"""Train decoders on the cached SUMMER arrays.

    import lightning
    import summer_train

    data = summer_train.film_data(task="label", label_name="summer", patient_ids=[14, 20], cache_dir="cache")
    decoder = summer_train.decoder(data, hidden_size=64)
    lightning.Trainer(max_epochs=5).fit(decoder, data)             # your trainer, or your own LightningModule

    result = summer_train.fit(task="label", patient_ids=[14, 20], cache_dir="cache", max_epochs=5)   # ours, fast
    counts = summer_train.open_selection("cache", [14, 20], 80).counts()                             # plain NumPy

Options are named as those of `summer-train fit`; a SummerError says in one line what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from summer_prep.errors import SummerError
    from summer_train.data.folds import folds
    from summer_train.data.selection import open_selection
    from summer_train.models.decoder import Decoder, LinearLabel, LinearNextBin
    from summer_train.reports.report import report
    from summer_train.runs.evaluate import evaluate
    from summer_train.runs.fit import decoder, film_data, fit
    from summer_train.runs.results import score
    from summer_train.studies.study import study

__all__ = [
    "Decoder", "LinearLabel", "LinearNextBin", "SummerError",
    "decoder", "evaluate", "film_data", "fit", "folds", "open_selection", "report", "score", "study",
]  # fmt: skip

_HOMES = {
    "summer_prep.errors": ["SummerError"],
    "summer_train.data.folds": ["folds"],
    "summer_train.data.selection": ["open_selection"],
    "summer_train.models.decoder": ["Decoder", "LinearLabel", "LinearNextBin"],
    "summer_train.reports.figures": ["figures"],
    "summer_train.reports.report": ["report"],
    "summer_train.runs.evaluate": ["evaluate"],
    "summer_train.runs.fit": ["decoder", "film_data", "fit"],
    "summer_train.runs.results": ["score"],
    "summer_train.studies.study": ["study"],
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: torch and lightning take seconds."""
    for home, names in _HOMES.items():
        if name in names:
            module = import_module(home)
            return getattr(module, name, module)  # `figures` is the module itself
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
