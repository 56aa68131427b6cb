"""The main text of pages, and what is made of it."""

import pytest

from project.summarizer.extraction import MAX_SENTENCES, sentences_of, summarise
from project.summarizer.fetching import Page, PageError
from project.tests.web import ARTICLES

#: Words of the navigation, the banners and the footers, and of the headings, of the pages of that name.
NOISE = {
    "blog": [
        "recipes",
        "newsletter",
        "Copyright",
        "privacy",
        "Great post",
        "Popular",
        "Tracking",
        "By Hanna",
        "What we do",
    ],
    "news": ["cookies", "Accept", "Sport", "pictures", "donate", "Most read", "Imprint", "Published", "reopens after"],
    "old": ["guest book", "List of", "Netscape", "webmaster", "Keepers of the", "Lighthouse of Kap Nord w"],
}


@pytest.mark.parametrize("name", ["blog", "news", "old"])
def test_summary_is_sentences_of_the_article_in_their_order(name: str) -> None:
    page = Page("text/html", (ARTICLES / f"{name}.html").read_bytes())

    sentences = sentences_of(page)
    summary = summarise(sentences)

    chosen = [sentence for sentence in sentences if sentence in summary]
    assert summary == " ".join(chosen)
    assert len(chosen) == MAX_SENTENCES < len(sentences)
    assert not [noise for noise in NOISE[name] if noise in " ".join(sentences)]


def test_summary_holds_what_the_article_is_about() -> None:
    page = Page("text/html", (ARTICLES / "news.html").read_bytes())

    assert "The river port of Altstadt has opened again" in summarise(sentences_of(page))


def test_abbreviation_ends_no_sentence() -> None:
    page = Page("text/html", (ARTICLES / "blog.html").read_bytes())

    assert "Dr. Meyer, who teaches baking at the college, looked at the dough and shrugged." in sentences_of(page)


GERMAN = "Am 3. Mai kam der Zug zu spät. Für 10 € gab es Tee – und „Brötchen“."
CHINESE = "这是一个句子。这是另外一个句子！"
DECLARED = '<html lang="de"><head><meta charset="{}"></head><body><p>{}</p></body></html>'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html; charset=utf-8", DECLARED.format("iso-8859-15", GERMAN).encode()),
        ("text/html; charset=windows-1252", DECLARED.format("utf-8", GERMAN).encode("cp1252")),
        ("text/html", DECLARED.format("windows-1252", GERMAN).encode("cp1252")),
        # What is called Latin-1 on the web is Windows's superset of it.
        ("text/html; charset=ISO-8859-1", DECLARED.format("utf-8", GERMAN).encode("cp1252")),
        ("text/html", DECLARED.format("iso-8859-1", GERMAN).encode("utf-8-sig")),
        ("text/html", DECLARED.format("utf-8", GERMAN).encode("utf-16")),
        ("text/html; charset=utf-16le", DECLARED.format("utf-8", GERMAN).encode("utf-16-le")),
        ("", DECLARED.format("utf-8", GERMAN).encode()),
        ("application/xhtml+xml", b'<?xml version="1.0"?>' + DECLARED.format("utf-8", GERMAN).encode()),
    ],
)
def test_page_is_read_in_its_encoding_and_language(content_type: str, body: bytes) -> None:
    assert sentences_of(Page(content_type, body)) == [
        "Am 3. Mai kam der Zug zu spät.",
        "Für 10 € gab es Tee – und „Brötchen“.",
    ]


@pytest.mark.parametrize("encoding", ["gb18030", "gb2312", "big5", "utf-8"])
def test_languages_without_spaces_have_sentences_too(encoding: str) -> None:
    text = CHINESE if encoding.startswith(("gb", "utf")) else "這是一個句子。這是另外一個句子！"

    sentences = sentences_of(Page(f"text/plain; charset={encoding}", text.encode(encoding)))

    assert sentences == [text[: text.index("。") + 1], text[text.index("。") + 1 :]]
    assert summarise(sentences) == text.replace("。", "。 ")


def test_encoding_that_nobody_names_is_guessed() -> None:
    text = (
        "Ещё вчера вечером в городе было тихо. Сегодня утром на площади собрались люди, и никто не знал почему. " * 5
    )

    sentences = sentences_of(Page("text/plain", text.encode("cp1251")))

    assert sentences[0] == "Ещё вчера вечером в городе было тихо."


def test_bytes_that_are_no_text_have_no_sentences() -> None:
    with pytest.raises(PageError, match="^The page has no text to summarise.$"):
        sentences_of(Page("text/plain", bytes(range(128, 256)) * 2))


def test_plain_text_has_paragraphs_and_broken_lines() -> None:
    body = b"HEADING\r\n\r\nA sentence that is\r\nbroken. Another\none.\r\n  \r\nThe third \0one.\r\n"

    assert sentences_of(Page("text/plain", body)) == ["A sentence that is broken.", "Another one.", "The third one."]


@pytest.mark.parametrize("encoding", ["zlib", "rot13", "idna", "undefined"])
def test_encoding_that_no_text_has_is_refused(encoding: str) -> None:
    with pytest.raises(PageError, match="^The page names an encoding that no text has.$"):
        sentences_of(Page(f"text/plain; charset={encoding}", b"Some text."))


def test_no_sentence_holds_what_no_database_takes() -> None:
    page = Page("text/plain; charset=unicode_escape", b"A \\x00 lone \\ud800 surrogate.")

    assert sentences_of(page) == ["A lone surrogate."]


def test_sentence_without_end_is_none() -> None:
    with pytest.raises(PageError, match="^The page has no text to summarise.$"):
        sentences_of(Page("text/plain", b"word " * 300 + b"."))


def test_short_article_is_its_own_summary() -> None:
    assert summarise(["One.", "Two.", "One."]) == "One. Two."
    assert summarise(["Alone."]) == "Alone."


def test_what_is_said_often_is_in_the_summary() -> None:
    often = [f"The harbour pilot guided ship number {number} into the harbour." for number in range(4)]
    odd = ["Bees sleep.", "Glass is slow.", "Music helps.", "Nobody came.", "Rain fell."]

    assert summarise([*odd[:3], *often, *odd[3:]]) == " ".join([odd[0], *often])
