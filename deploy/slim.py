"""Remove from the production image's packages what the service does not use, and compile what it imports.

Dockerfile.prod runs it with the Python of the environment that it slims. `.ci/smoke.py` shows that nothing is missed.
"""

import importlib
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))

#: Paths below site-packages, and why the service does without them.
UNUSED = {
    "Bootstrap and its like, for Flask-Admin's own templates; the admin pages have theirs": [
        "flask_admin/static",
        "flask_admin/translations",
    ],
    "Flask-Admin's pages for files, maps and other databases": [
        "flask_admin/contrib/fileadmin",
        "flask_admin/contrib/geoa",
        "flask_admin/contrib/mongoengine",
        "flask_admin/contrib/peewee*",
        "flask_admin/contrib/pymongo",
    ],
    "dialects of other databases": [
        "sqlalchemy/dialects/mssql",
        "sqlalchemy/dialects/mysql",
        "sqlalchemy/dialects/oracle",
        "sqlalchemy/dialects/sqlite",
    ],
    "parts of lxml that trafilatura does not import": [
        "lxml/objectify.*",
        "lxml/html/_difflib.*",
        "lxml/html/diff.*",
        "lxml/isoschematron",
    ],
    "email-validator's DNS look-ups, which the service has turned off": ["dns"],
    "what cryptography's wheel was built with; it runs with _cffi_backend alone": ["cffi", "pycparser"],
    "pydantic's first version, a copy for applications that still use it": ["pydantic/v1"],
    "tools that collect messages to translate, and what translations are compiled from": ["babel/messages", "**/*.po"],
    "the schema of TEI, a form in which no article is written here": ["trafilatura/data"],
    "the page of the documentation loads the bundle": [
        "flask_swagger_ui/dist/swagger-ui.js",
        "flask_swagger_ui/dist/swagger-ui-standalone-preset.js",
    ],
    "tests of the packages": ["*/tests", "*/*/tests", "alembic/testing", "mako/testing", "sqlalchemy/testing"],
    "what compilers and type checkers read": ["**/*.c", "**/*.h", "**/*.pxd", "**/*.pxi", "**/*.pyx", "**/*.pyi"],
    "lists of a package's files and of what it was built from, for pip and auditors": [
        "*.dist-info/RECORD",
        "*.dist-info/sboms",
    ],
}

#: The languages that stay of babel's: trafilatura's packages check by it that a language exists.
LOCALES = {"root.dat", "en.dat"}

#: What the processes of the service import, lazily too. Other modules are compiled in memory, when they are imported.
IMPORTED = [
    "alembic.command",
    "email_validator.validate_email",
    "fasteners",
    "flask_admin.contrib.sqla.filters",
    "flask_admin.contrib.sqla.view",
    "flask_migrate",
    "flask_restful",
    "flask_sqlalchemy.cli",
    "flask_swagger_ui",
    "granian.log",
    "granian.server.mp",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "idna.uts46data",
    "jwt.algorithms",
    "limits.storage",
    "limits.strategies",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.instrumentation.flask",
    "opentelemetry.instrumentation.psycopg2",
    "orjson",
    "prometheus_client.multiprocess",
    "psutil",
    "psycopg2.extras",
    "pydantic.json_schema",
    "pydantic.networks",
    "pydantic.type_adapter",
    "pydantic.types",
    "requests",
    "sentencex",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "tqdm",
    "trafilatura",
    "w3lib.encoding",
    "werkzeug.middleware.proxy_fix",
]


def remove_unused() -> None:
    """Remove the paths of UNUSED; fail where one of them is not there, so that the list stays true."""
    for paths in UNUSED.values():
        for pattern in paths:
            found = list(PACKAGES.glob(pattern))
            if not found:
                sys.exit(f"deploy/slim.py: there is no {pattern} in {PACKAGES}. Take it from the list.")
            for path in found:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def remove_locales() -> None:
    """Remove the data of all languages but LOCALES."""
    for path in PACKAGES.glob("babel/locale-data/*.dat"):
        if path.name not in LOCALES:
            path.unlink()


def strip_libraries() -> None:
    """Remove debug symbols and the symbols that no other library links to."""
    libraries = [str(path) for pattern in ("**/*.so", "**/*.so.*") for path in PACKAGES.glob(pattern)]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


def compile_imported() -> None:
    """Write the byte code of the modules that IMPORTED and their imports load.

    It holds whatever the time of the file is: a container that writes nothing would not replace it.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and PACKAGES in Path(file).parents:
            py_compile.compile(file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    remove_unused()
    remove_locales()
    strip_libraries()
    compile_imported()
