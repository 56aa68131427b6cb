"""How gunicorn serves the application; it reads this file by itself when started in this folder."""

import os

from flask import Config

from project.config import APP_SETTINGS, complete
from project.observability import logs, multiprocess
from project.servers import heartbeat, hooks
from project.servers.limits import max_connections
from project.servers.worker import Worker

settings = Config(os.getcwd())
settings.from_object(APP_SETTINGS)
# Here, and not only in the workers: one that ends at its start is started again and again.
complete(settings)
logs.configure(settings)
# Before the workers start, which write their figures there.
folder = multiprocess.share()
multiprocess.warn_of_missing_folder()
Worker.configure(settings)

wsgi_app = "manage:app"
worker_class = Worker
logger_class = hooks.Logger
on_starting = hooks.on_starting
when_ready = hooks.when_ready
pre_fork = hooks.pre_fork
post_worker_init = hooks.post_worker_init
pre_request = hooks.pre_request
bind = f"0.0.0.0:{settings['PORT']}"
workers = settings["WEB_CONCURRENCY"]
threads = settings["WEB_THREADS"]
worker_connections = max_connections(threads)
loglevel = settings["LOG_LEVEL"]
# In the lines of the service.
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"service": {"()": lambda: logs.LOG}},
    "root": {"handlers": ["service"]},
    "loggers": {"gunicorn.error": {"handlers": ["service"], "propagate": False}},
}

# A worker whose main thread is silent for 30 s is killed; each request has its own limits, in Worker.limits.
timeout = 30
graceful_timeout = settings["GRACEFUL_TIMEOUT"]
keepalive = settings["KEEP_ALIVE"]

# The most that gunicorn takes: a listing's longest filters, percent-encoded, need more than its usual 4094 bytes.
limit_request_line = 8190

# Workers prove that they live by touching a file, which must not wait for a disk: beside their figures, in memory.
worker_tmp_dir = heartbeat.heartbeat_folder(folder)
# The socket needs a folder to write in, which a read-only container has not.
control_socket_disable = True
