"""What the host tells OpenTelemetry."""
