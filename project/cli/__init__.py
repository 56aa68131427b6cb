"""The commands of manage.py by noun: each parses, makes one call and says what happened.

Offers `run` and `cli`, the group of all. manage.py alone imports it.
"""
