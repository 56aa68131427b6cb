"""Who may call what: scopes, access tokens, the tokens of an issuer, rate limits.

Offers `scope`, which every method of a Resource names. Resources and the admin pages import it.
"""
