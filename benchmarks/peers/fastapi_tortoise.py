"""FastAPI with Tortoise: dictionaries by values(), and JSON by orjson."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, EmailStr, Field
from tortoise import fields
from tortoise.contrib.fastapi import RegisterTortoise
from tortoise.exceptions import IntegrityError
from tortoise.models import Model

COLUMNS = ("id", "username", "email", "active", "created_date")


class User(Model):
    """A user."""

    id = fields.BigIntField(primary_key=True)
    username = fields.CharField(128)
    email = fields.CharField(128, unique=True)
    active = fields.BooleanField(default=True)
    created_date = fields.DatetimeField()

    class Meta:
        """Name the table."""

        table = "users"


class UserIn(BaseModel):
    """A new user."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    email: Annotated[EmailStr, Field(max_length=128)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep connections to the database that PGHOST and PGDATABASE name."""
    credentials = {
        "host": os.environ["PGHOST"],
        "port": 5432,
        "user": "postgres",
        "password": None,
        "database": os.environ["PGDATABASE"],
    }
    connections = {"default": {"engine": "tortoise.backends.asyncpg", "credentials": credentials}}
    async with RegisterTortoise(app, {"connections": connections, "apps": {"users": {"models": [__name__]}}}):
        yield


app = FastAPI(lifespan=lifespan)


def answer(content: dict[str, Any], status: int = 200) -> Response:
    """Return a response of JSON; what is known to be right needs no model of the response."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), status, media_type="application/json")


@app.get("/ping")
async def ping() -> Response:
    """Say that the service is there."""
    return answer({"status": "success", "message": "pong!"})


@app.get("/users")
async def users() -> Response:
    """List users."""
    found = await User.all().order_by("id").limit(100).values(*COLUMNS)
    return answer({"status": "success", "data": {"users": found}})


@app.get("/users/{user_id}")
async def user(user_id: int) -> Response:
    """Show a user."""
    found = await User.get_or_none(id=user_id).values(*COLUMNS)
    if not found:
        raise HTTPException(404, "User does not exist")
    return answer({"status": "success", "data": found})


@app.post("/users")
async def add_user(new: UserIn) -> Response:
    """Add a user."""
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        added = await User.create(username=new.username, email=new.email, created_date=now)
    except IntegrityError:
        raise HTTPException(400, "Sorry. That email already exists.") from None
    data = {name: getattr(added, name) for name in COLUMNS}
    return answer({"status": "success", "message": f"{new.email} was added!", "data": data}, 201)
