"""The embedded Postgres server of development and tests.

Offers `Server`. The configuration and the command line import it.
"""
