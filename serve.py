"""Start the server that WSGI_SERVER names: python serve.py."""

from project.servers.start import serve

if __name__ == "__main__":
    serve()
