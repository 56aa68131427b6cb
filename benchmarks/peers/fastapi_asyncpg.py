"""FastAPI with asyncpg by hand: a pool, four statements, and JSON by orjson."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import orjson
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, EmailStr, Field

COLUMNS = "id, username, email, active, created_date"


class UserIn(BaseModel):
    """A new user."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    email: Annotated[EmailStr, Field(max_length=128)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a pool of connections to the database that PGHOST and PGDATABASE name."""
    async with asyncpg.create_pool() as app.state.pool:
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
    rows = await app.state.pool.fetch(f"SELECT {COLUMNS} FROM users ORDER BY id LIMIT 100")
    return answer({"status": "success", "data": {"users": [dict(row) for row in rows]}})


@app.get("/users/{user_id}")
async def user(user_id: int) -> Response:
    """Show a user."""
    row = await app.state.pool.fetchrow(f"SELECT {COLUMNS} FROM users WHERE id = $1", user_id)
    if not row:
        raise HTTPException(404, "User does not exist")
    return answer({"status": "success", "data": dict(row)})


@app.post("/users")
async def add_user(new: UserIn) -> Response:
    """Add a user."""
    insert = f"INSERT INTO users (username, email) VALUES ($1, $2) RETURNING {COLUMNS}"
    try:
        row = await app.state.pool.fetchrow(insert, new.username, new.email)
    except asyncpg.UniqueViolationError:
        raise HTTPException(400, "Sorry. That email already exists.") from None
    return answer({"status": "success", "message": f"{new.email} was added!", "data": dict(row)}, 201)
