"""Which images do not belong to the data that a model was trained on: scores of single images, larger = more anomalous, and how well they tell two sets apart."""

from vaelab.tasks.anomaly.code_length import code_length
from vaelab.tasks.anomaly.detection import Detection, Interval, curve, detection
from vaelab.tasks.anomaly.regret import refusal, regret
from vaelab.tasks.anomaly.scores import SCORES, Reference, Score
from vaelab.tasks.anomaly.threshold import least_images, p_values, threshold

__all__ = [
    "SCORES",
    "Detection",
    "Interval",
    "Reference",
    "Score",
    "code_length",
    "curve",
    "detection",
    "least_images",
    "p_values",
    "refusal",
    "regret",
    "threshold",
]
