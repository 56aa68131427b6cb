"""The command line of the service, and the application for a WSGI server (manage:app)."""

from project import create_app

app = create_app()

if __name__ == "__main__":
    # Here, so that a server does not load the commands.
    from project.cli.commands import run

    run(app)
