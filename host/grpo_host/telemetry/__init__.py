"""Send the host's spans, metrics and events to OpenTelemetry."""
