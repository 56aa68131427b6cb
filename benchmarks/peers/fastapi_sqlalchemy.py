"""FastAPI with SQLAlchemy's asyncio: ORM objects, a session a request, and models of the responses."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, EmailStr, Field
from sqlalchemy import BigInteger, FetchedValue, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# asyncpg knows the database from PGHOST and PGDATABASE.
sessions = async_sessionmaker(create_async_engine("postgresql+asyncpg://"), expire_on_commit=False)
app = FastAPI()


async def session() -> AsyncIterator[AsyncSession]:
    """Give a request its session."""
    async with sessions() as own:
        yield own


Session = Annotated[AsyncSession, Depends(session)]


class Base(DeclarativeBase):
    """The base of the models."""


class User(Base):
    """A user."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    username: Mapped[str]
    email: Mapped[str]
    active: Mapped[bool] = mapped_column(server_default=FetchedValue())
    created_date: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class UserIn(BaseModel):
    """A new user."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    email: Annotated[EmailStr, Field(max_length=128)]


class UserOut(BaseModel):
    """A user as the API shows it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    email: str
    active: bool
    created_date: datetime


class Message(BaseModel):
    """A success in words."""

    status: Literal["success"] = "success"
    message: str


class UserShown(BaseModel):
    """The answer with one user."""

    status: Literal["success"] = "success"
    data: UserOut


class UserAdded(Message):
    """The answer with a new user."""

    data: UserOut


class Users(BaseModel):
    """A list of users."""

    users: list[UserOut]


class UsersShown(BaseModel):
    """The answer with many users."""

    status: Literal["success"] = "success"
    data: Users


@app.get("/ping")
async def ping() -> Message:
    """Say that the service is there."""
    return Message(message="pong!")


@app.get("/users", response_model=UsersShown)
async def users(session: Session) -> dict[str, object]:
    """List users."""
    return {"data": {"users": (await session.scalars(select(User).order_by(User.id).limit(100))).all()}}


@app.get("/users/{user_id}", response_model=UserShown)
async def user(user_id: int, session: Session) -> dict[str, object]:
    """Show a user."""
    found = await session.get(User, user_id)
    if not found:
        raise HTTPException(404, "User does not exist")
    return {"data": found}


@app.post("/users", status_code=201, response_model=UserAdded)
async def add_user(new: UserIn, session: Session) -> dict[str, object]:
    """Add a user."""
    added = User(**new.model_dump())
    session.add(added)
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(400, "Sorry. That email already exists.") from None
    return {"message": f"{added.email} was added!", "data": added}
