"""The notes."""

from flask import Blueprint

from project.api.models import Note
from project.api.payloads import NoteIn
from project.api.representations import NoteOut
from project.http.bodies import body
from project.http.resources import Api
from project.http.rows import RowDetail, RowList, Rows

notes_blueprint = Blueprint("notes", __name__)
api = Api(notes_blueprint)

NOTES: Rows[NoteOut] = Rows(Note, missing="Note not found")


class NoteList(RowList[NoteOut]):
    """All notes."""

    rows = NOTES
    post = body(NoteIn)(RowList.add)


class NoteDetail(RowDetail[NoteOut]):
    """One note."""

    rows = NOTES
    put = body(NoteIn)(RowDetail.replace)


api.add_resource(NoteList, "/notes/", "/notes")
api.add_resource(NoteDetail, "/notes/<id>/", "/notes/<id>")
