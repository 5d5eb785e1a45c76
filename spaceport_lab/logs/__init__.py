"""What an operator sees: log lines without secrets, metrics for CloudWatch and Prometheus."""

from spaceport_lab.logs.figures import emf, prometheus_text, run_metrics
from spaceport_lab.logs.secrets import redact, without_secrets
from spaceport_lab.logs.setup import FORMATS, LEVELS, bound, child_environment, configure, log_level

__all__ = [
    "FORMATS",
    "LEVELS",
    "bound",
    "child_environment",
    "configure",
    "emf",
    "log_level",
    "prometheus_text",
    "redact",
    "run_metrics",
    "without_secrets",
]
