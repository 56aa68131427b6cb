"""Start the server that WSGI_SERVER names: python serve.py."""

from importlib import import_module

from project import metrics
from project.servers.start import serve

if __name__ == "__main__":
    # Before there is an application: its processes count together from the start.
    metrics.share()
    serve(import_module("manage").app)
