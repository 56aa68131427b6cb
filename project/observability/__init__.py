"""What an operator sees of the service: log lines, metrics, traces.

Offers `logs`, `metrics`, `tracing`, and `redact`, for what may stand in them. Every other part may import it; it
imports nothing of the service.
"""
