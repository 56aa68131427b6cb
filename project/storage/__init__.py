"""The way to Postgres: connections, single statements, and how long a request may use them.

Offers `Statement`, `set_deadline` and `connect`. Whatever needs the database may import it; it knows no table.
"""
