"""The command line of the service, and the application for a WSGI server (manage:app)."""

from project import create_app
from project.cli.commands import Commands

app = create_app()
cli = Commands(create_app=lambda: app, context_settings={"default_map": {"run": {"port": app.config["PORT"]}}})

if __name__ == "__main__":
    cli()
