"""Networks on this machine: namespaces, cables between them, delay and loss. Needs root."""

from .lab import Lab, LabError, Link, Space, why_not
from .shape import Shape

__all__ = ["Lab", "LabError", "Link", "Shape", "Space", "why_not"]
