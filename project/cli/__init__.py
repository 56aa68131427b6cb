"""The commands of manage.py by noun: each parses, makes one call and says what happened.

Offers `Commands`, the group of all. manage.py and create_app import it.
"""
