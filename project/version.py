"""The version of the service, in one place."""

VERSION = "0.1.0"
