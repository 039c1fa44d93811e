"""Labels that the current model contradicts, for looking at again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from annotation.tasks import Task
from infra.platform import Platform
from training.models import Model


def by_row(
    platform: Platform, *, task: Task, model: Model, labelled: Mapping[int, Collection[str]]
) -> dict[int, float]:
    """How little a model believes the label of each row, in [0, 1].

    For tasks other than `classification` each class is a question of its own, whether the frame shows it, and the answer it believes least
    counts. Rows that the model has not seen, or whose label names a class that it does not know, are left out.

    Args:
        platform: Where the predictions are.
        task: Of the labels.
        model: Of the predictions.
        labelled: The classes of each row's label.
    """
    import numpy as np

    from selection.ranking.predictions import Predictions
    from selection.scores import label_errors

    classes = model.classes
    wanted = [row for row, value in labelled.items() if set(value) <= set(classes)]
    predicted = Predictions(platform, model.model_id).probabilities_by_row(wanted)
    if not predicted:
        return {}
    label_NC = np.array([[name in labelled[row] for name in classes] for row in predicted], dtype=bool)
    errors = label_errors.self_confidence_error(
        np.stack(list(predicted.values())),
        label_NC,
        kind="classification" if task.kind == "classification" else "multilabel",
    )
    return dict(zip(predicted, errors.tolist(), strict=True))
