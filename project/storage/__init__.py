"""The way to Postgres: connections, single statements, and how long a request may use them.

Offers `Statement`, `connections` and `set_seconds_left`. Whatever needs the database may import it; it knows no table.
"""
