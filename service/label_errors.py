"""Labels that the current model contradicts, for looking at again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from annotation.tasks import Task
from training.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def by_row(
    *,
    task: Task,
    model: Model,
    labelled: Mapping[int, Collection[str]],
    predicted: Mapping[int, NDArray[np.float32]],
) -> dict[int, float]:
    """How little a model believes the label of each row, in [0, 1].

    For tasks other than `classification` each class is a question of its own, whether the frame shows it, and the answer it believes least
    counts. Rows that the model has not seen, or whose label names a class that it does not know, are left out.

    Args:
        task: Of the labels.
        model: Of the predictions.
        labelled: The classes of each row's label.
        predicted: Probabilities by row, shape (C,).
    """
    import numpy as np

    from selection.scores import label_errors

    classes = model.classes
    rows = [row for row, value in labelled.items() if row in predicted and set(value) <= set(classes)]
    if not rows:
        return {}
    label_NC = np.array([[name in labelled[row] for name in classes] for row in rows], dtype=bool)
    errors = label_errors.self_confidence_error(
        np.stack([predicted[row] for row in rows]),
        label_NC,
        kind="classification" if task.kind == "classification" else "multilabel",
    )
    return dict(zip(rows, errors.tolist(), strict=True))
