"""The tables and what must hold in them, whoever writes."""

import hashlib
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    FetchedValue,
    Identity,
    Index,
    Label,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from project.api.representations import NoteOut, SummaryOut, UserOut
from project.extensions import Base, db

#: The longest username, email address and name of a token, in characters.
MAX_USERNAME_LENGTH = 128
MAX_EMAIL_LENGTH = 128
MAX_TOKEN_NAME_LENGTH = 128
#: The longest text to search for, in characters: as long as what is searched.
MAX_SEARCH_LENGTH = max(MAX_USERNAME_LENGTH, MAX_EMAIL_LENGTH)
#: The shortest and the longest title and description of a note, in characters.
NOTE_LENGTHS = (3, 50)
#: The longest address of a page that is summarised, in characters.
MAX_URL_LENGTH = 2083
#: How our own tokens begin, so that a scanner of secrets finds one that was committed.
PREFIX = "usr_"
#: What a token may allow.
SCOPES = ("users:read", "users:write", "notes:read", "notes:write", "summaries:read", "summaries:write", "admin")
# Whole seconds, by the database's clock: what is stored is what is shown.
WHOLE_SECONDS = TIMESTAMP(timezone=True, precision=0)
THIS_SECOND = func.date_trunc("second", func.now())
#: A column as it is read.
Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def in_utc(moment: InstrumentedAttribute[datetime]) -> Label[str]:
    """Return a column of WHOLE_SECONDS as the API shows it, written out by Postgres."""
    return func.to_char(func.timezone("UTC", moment), 'YYYY-MM-DD"T"HH24:MI:SS"Z"').label(moment.key)


def timestamp(moment: datetime) -> str:
    """Return a moment as the API shows it: whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Row(Base):
    """What the API shows one by one: each has an id and a version."""

    __abstract__ = True
    #: It names the columns that callers see, in their order.
    representation: ClassVar[type]

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    # Postgres's own mark of the transaction that wrote the row: it changes with every write, by whatever path.
    version: Mapped[str] = mapped_column("xmin", String, system=True, server_default=FetchedValue())

    @classmethod
    def sparse(cls) -> frozenset[str]:
        """Return the members that the representation leaves out where they are null; others are shown as null."""
        optional: frozenset[str] = getattr(cls.representation, "__optional_keys__")
        return optional

    @classmethod
    def columns_shown(cls) -> list[Column]:
        """Return the columns that callers see, as the API writes them."""
        columns = [getattr(cls, name) for name in cls.representation.__annotations__]
        return [in_utc(column) if isinstance(column.type, TIMESTAMP) else column for column in columns]

    def to_json(self) -> Any:
        """Return the row as the API shows it."""
        values = {name: getattr(self, name) for name in self.representation.__annotations__}
        return {
            name: timestamp(value) if isinstance(value, datetime) else value
            for name, value in values.items()
            if value is not None or name not in self.sparse()
        }


class User(Row):
    """A user: a name that others may share and an email address that nobody else has."""

    __tablename__ = "users"
    representation = UserOut

    username: Mapped[str] = mapped_column(String(MAX_USERNAME_LENGTH))
    email: Mapped[str] = mapped_column(String(MAX_EMAIL_LENGTH))
    active: Mapped[bool] = mapped_column(server_default=true())
    created_date: Mapped[datetime] = mapped_column(WHOLE_SECONDS, server_default=THIS_SECOND)

    __table_args__ = (
        CheckConstraint("btrim(username) <> ''", name="users_username_not_blank"),
        CheckConstraint("email = btrim(email) AND position('@' in email) > 1", name="users_email_is_address"),
    )


# Text is ordered by its code points: on every platform alike, and so that an index finds a prefix too.
USERNAME_ORDER = User.username.collate("C")
USERNAME_FOLDED = func.lower(User.username).collate("C")
EMAIL_ORDER = User.email.collate("C")
EMAIL_FOLDED = func.lower(User.email).collate("C")

# Refuses an address that another user has, in whatever case it is written; constraints.py says how.
Index("users_email_key", EMAIL_FOLDED, unique=True)

# Ties are broken by the id, also in the indexes.
Index("users_username_idx", USERNAME_ORDER, User.id)
Index("users_username_prefix_idx", USERNAME_FOLDED)
Index("users_email_idx", EMAIL_ORDER, User.id)
Index("users_created_date_idx", User.created_date, User.id)
Index("users_active_idx", User.active, User.id)


class Note(Row):
    """A note: a title and a description."""

    __tablename__ = "notes"
    representation = NoteOut

    title: Mapped[str] = mapped_column(String(NOTE_LENGTHS[1]))
    description: Mapped[str] = mapped_column(String(NOTE_LENGTHS[1]))
    created_date: Mapped[datetime] = mapped_column(WHOLE_SECONDS, server_default=THIS_SECOND)

    __table_args__ = (
        CheckConstraint("char_length(title) >= 3", name="notes_title_long_enough"),
        CheckConstraint("char_length(description) >= 3", name="notes_description_long_enough"),
    )


class Summary(Row):
    """A page of the web and its summary, which the summarizer writes: pending until then, failed where it cannot.

    Who replaces a summary over HTTP has written it: it is done, and its page is not fetched. An empty text asks for
    another.
    """

    __tablename__ = "summaries"
    representation = SummaryOut

    url: Mapped[str] = mapped_column(String(MAX_URL_LENGTH))
    summary: Mapped[str] = mapped_column(Text, server_default="")
    state: Mapped[Literal["pending", "done", "failed"]] = mapped_column(Text, server_default="pending")
    # Why it failed, as callers are told.
    reason: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    next_attempt_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(WHOLE_SECONDS, server_default=THIS_SECOND)

    __table_args__ = (
        CheckConstraint("state IN ('pending', 'done', 'failed')", name="summaries_state_is_known"),
        CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="summaries_failed_has_reason"),
    )


Index("summaries_pending_idx", Summary.next_attempt_at, postgresql_where=Summary.state == "pending")


class AccessToken(Base):
    """A token that opens the API to its bearer: its digest, from which nobody can tell the token."""

    __tablename__ = "access_tokens"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(MAX_TOKEN_NAME_LENGTH))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_date: Mapped[datetime] = mapped_column(WHOLE_SECONDS, server_default=THIS_SECOND)
    expires_at: Mapped[datetime | None] = mapped_column(WHOLE_SECONDS)
    # To the minute: who uses a token must not wait for a write each time.
    last_used_at: Mapped[datetime | None] = mapped_column(WHOLE_SECONDS)
    revoked_at: Mapped[datetime | None] = mapped_column(WHOLE_SECONDS)

    __table_args__ = (
        UniqueConstraint("name", name="access_tokens_name_key"),
        UniqueConstraint("digest", name="access_tokens_digest_key"),
        CheckConstraint("btrim(name) <> ''", name="access_tokens_name_not_blank"),
        CheckConstraint("octet_length(digest) = 32", name="access_tokens_digest_is_sha256"),
        CheckConstraint("cardinality(scopes) > 0", name="access_tokens_scopes_not_empty"),
    )

    @staticmethod
    def digest_of(token: str) -> bytes:
        """Return what is stored of a token. It is too random to be guessed, so that a fast hash will do."""
        return hashlib.sha256(token.encode()).digest()


def shell_context() -> dict[str, object]:
    """Return the names that `flask shell` knows: db and every model."""
    return {"db": db, **{model.__name__: model for model in (AccessToken, Note, Summary, User)}}
