"""The summaries of pages of the web."""

from typing import Literal

from flask import Blueprint
from sqlalchemy import bindparam, case, func, null

from project.api.models import Summary
from project.api.payloads import SummaryIn, SummaryWanted
from project.api.representations import SummaryAsked, SummaryOut
from project.auth.access import WRITE, scope
from project.http.bodies import body
from project.http.resources import Api
from project.http.response_headers import NewRowHeaders
from project.http.rows import RowDetail, RowList, Rows

summaries_blueprint = Blueprint("summaries", __name__)
api = Api(summaries_blueprint)

SUMMARIES: Rows[SummaryOut] = Rows(
    Summary,
    missing="Summary not found",
    # A text is there to stay; an empty one asks for another.
    also={
        "state": case((bindparam("summary") == "", "pending"), else_="done"),
        "reason": null(),
        "attempts": 0,
        "next_attempt_at": func.now(),
    },
)


class SummaryList(RowList[SummaryOut]):
    """All summaries."""

    rows = SUMMARIES

    @scope(WRITE)
    @body(SummaryWanted)
    def post(self, payload: SummaryWanted) -> tuple[SummaryAsked, Literal[201], NewRowHeaders]:
        """Ask for the summary of a page.

        It is made afterwards: until then its text is empty, and its state `pending`.
        """
        summary, headers = self.added({"url": payload.url, "summary": ""})
        return {"id": summary["id"], "url": summary["url"]}, 201, headers


class SummaryDetail(RowDetail[SummaryOut]):
    """One summary."""

    rows = SUMMARIES
    put = body(SummaryIn)(RowDetail.replace)


api.add_resource(SummaryList, "/summaries/", "/summaries")
api.add_resource(SummaryDetail, "/summaries/<id>/", "/summaries/<id>")
