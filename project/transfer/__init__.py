"""Users in and out of files: readers, staging and merge, writers. It knows no Flask.

Offers `Import` and `write_users`. The Resources of transfers and the command line import it.
"""
