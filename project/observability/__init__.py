"""What an operator sees of the service: log lines, metrics, traces.

Offers `logs`, `metrics` and `tracing`. Every other part may import it; it imports nothing of the service.
"""
