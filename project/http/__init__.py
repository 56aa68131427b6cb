"""What every call shares: errors, responses, bodies, pagination, conditional requests, instrumentation.

Offers `Resource`, `Api` and the decorators of their methods. Resources import it; it knows no noun.
"""
