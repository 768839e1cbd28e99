"""What a result may tell about hidden references."""

from .results import Aggregates, ErrorSummary, Metrics


def headline(metrics: Metrics) -> Metrics:
    """The aggregates that a `protected` reference gives: no maximum, SD, RMS, percentiles or landmark rows.

    A maximum is one point's distance, and a landmark's row over few cases nearly so: either lets anyone who varies a
    submission find a hidden point.
    """
    scores = metrics.aggregates
    errors = ErrorSummary(mean=scores.mre_mm.mean, median=scores.mre_mm.median, iqr=scores.mre_mm.iqr)
    confidence = {
        "mre_mm": {key: scores.confidence["mre_mm"][key] for key in ("mean", "median", "iqr")},
        "sdr": scores.confidence["sdr"],
    }
    return metrics.model_copy(
        update={
            "aggregates": Aggregates(
                mre_mm=errors,
                sdr=scores.sdr,
                n_missing=scores.n_missing,
                n_false_alarms=scores.n_false_alarms,
                runtime_s=scores.runtime_s,
                confidence=confidence,
            )
        }
    )
