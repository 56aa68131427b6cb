"""The worker that summarises web pages, and the process that reads them and knows nothing of the service.

Offers `Summarizer`. The command line imports it.
"""
