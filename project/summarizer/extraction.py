"""Articles: the main text of a page, and the sentences that say the most of it."""

import re
from collections import Counter, defaultdict
from math import hypot, log

import charset_normalizer
import trafilatura
from sentencex import segment
from w3lib.encoding import html_to_unicode

from project.summarizer.fetching import Page, PageError

# What is not an article by its very name: with nothing else on a page, trafilatura takes it for one.
APART = ["//nav", "//*[@role='navigation']", "//aside", "//footer", "//noscript", "//header[not(ancestor::article)]"]
HTML = ("text/html", "application/xhtml+xml", "")
#: How many sentences a summary has at most, how long one may be, and how many of an article are weighed.
MAX_SENTENCES, MAX_SENTENCE_LENGTH, MAX_WEIGHED = 5, 1000, 2000
# Languages that put no space between words have words of one character here.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964][\"')\]\u00bb\u201c\u201d\u2019\u300d]*$")
LANGUAGE = re.compile(r"<html\b[^>]*\blang\s*=\s*[\"']?([a-z]{2,3})\b", re.IGNORECASE)


def guess(body: bytes) -> str | None:
    """Return the encoding of a text that names none."""
    best = charset_normalizer.from_bytes(body).best()
    return best.encoding if best else None


def sentences_of(page: Page) -> list[str]:
    """Return the sentences of a page's main text, without headings, navigation and tables; raises PageError."""
    media_type = page.content_type.partition(";")[0].strip().lower()
    if media_type not in (*HTML, "text/plain"):
        raise PageError("The page is neither HTML nor plain text.")
    try:
        text = html_to_unicode(page.content_type, page.body, auto_detect_fun=guess)[1]
    except (LookupError, UnicodeError):
        # Python knows "encodings" that are none of texts.
        raise PageError("The page names an encoding that no text has.") from None
    # Python's own escapes make halves of characters, which nothing can store.
    text = re.sub(r"[\ud800-\udfff]", " ", text)
    language = "en"
    if media_type in HTML:
        if found := LANGUAGE.search(text, 0, 4096):
            language = found[1].lower()
        text = trafilatura.extract(text, include_comments=False, include_tables=False, prune_xpath=APART) or ""
    else:
        # Lines are broken for the width of a screen there, and paragraphs end with an empty one.
        text = re.sub(r"(?<!\n)\n(?![^\S\n]*\n)", " ", re.sub(r"\r\n?", "\n", text))
    found_sentences = (
        re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", sentence).strip()
        for line in text.splitlines()
        for sentence in segment(language, line)
    )
    sentences = [
        sentence for sentence in found_sentences if len(sentence) <= MAX_SENTENCE_LENGTH and END.search(sentence)
    ]
    if not sentences:
        raise PageError("The page has no text to summarise.")
    return sentences


def summarise(sentences: list[str]) -> str:
    """Return the few sentences that are most like all the others, in their order.

    Sentences are vectors of their words, the rare ones weighing more; what is summed up is the cosine of the angle
    between a sentence and each other one, which is the cosine to the sum of all of them.
    """
    sentences = list(dict.fromkeys(sentences))[:MAX_WEIGHED]
    counts = [Counter(WORD.findall(sentence.casefold())) for sentence in sentences]
    spread = Counter(word for count in counts for word in count)
    vectors = []
    for count in counts:
        vector = {word: number * log(len(sentences) / spread[word]) for word, number in count.items()}
        length = hypot(*vector.values()) or 1
        vectors.append({word: weight / length for word, weight in vector.items()})
    centre: defaultdict[str, float] = defaultdict(float)
    for vector in vectors:
        for word, weight in vector.items():
            centre[word] += weight
    ratings = [sum(weight * centre[word] for word, weight in vector.items()) for vector in vectors]
    best = sorted(range(len(sentences)), key=ratings.__getitem__, reverse=True)[:MAX_SENTENCES]
    return " ".join(sentences[number] for number in sorted(best))
