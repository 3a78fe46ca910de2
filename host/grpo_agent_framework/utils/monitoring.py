"""``MonitoringService``: the guide's name of ``grpo_host.telemetry.monitoring.Monitoring``."""

from __future__ import annotations

from grpo_host.telemetry.monitoring import Monitoring as MonitoringService

__all__ = ["MonitoringService"]
