"""How the application is served: by gunicorn, with a worker and hooks of its own, or by granian."""
