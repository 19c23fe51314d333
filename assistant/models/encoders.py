"""How each kind of vocabulary besides byte-level BPE cuts a text into tokens, as llama.cpp does it.

Each class follows one `llm_tokenizer_*_session` of llama.cpp (src/llama-vocab.cpp) to the same ids:
`SentencePiece` ("llama": merges by score), `PairMerges` ("gemma4": merges by rank), `Unigram`
("t5": Viterbi), `WordPiece` ("bert") and `Rwkv` ("rwkv": longest match). No library gives these
ids: SentencePiece's and Hugging Face's differ in ties, in what follows a user's token, and in how
they normalize.

Texts are cut where no token of the vocabulary reaches across, which changes nothing, and the words
between are remembered.
"""

from __future__ import annotations

import heapq
import re
import struct
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import regex

from assistant.memory.gguf.header import Header

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.h, enum llama_token_type."""

SPACE = "\u2581"
"""What SentencePiece writes for a blank."""

_MOST_WORDS = 1 << 16
_LONGEST_WORD_CHARS = 256  # longer ones do not come again
_UNKNOWN_PENALTY = 10.0

LONGEST_TOKEN_CHARS = 256
"""Of vocabularies whose longest token decides how long the search for one takes."""
_BLANKS = "[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


class _Words:
    """Cuts texts between words, and remembers the tokens of each."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._cut = re.compile(_seams(texts))
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text between two of the user's tokens."""
        ids: list[int] = []
        for word in self._cut.split(text):
            found = self._known.get(word)
            if found is None:
                found = self._word(word) if word else []
                if len(self._known) >= _MOST_WORDS:
                    self._known.clear()
                if len(word) <= _LONGEST_WORD_CHARS:
                    self._known[word] = found
            self._append(ids, found)
        return ids

    def _append(self, ids: list[int], found: list[int]) -> None:
        ids += found

    def _word(self, word: str) -> list[int]:
        raise NotImplementedError


def _seams(texts: Iterable[str]) -> str:
    """A pattern for the places before a blank, and on both sides of a line end, that no token has
    inside."""
    joined = "\0".join(texts)
    before_space = set(re.findall(f"[^\0](?={SPACE})", joined))
    after_line = set(re.findall("(?<=\n)[^\0]", joined))
    before_line = set(re.findall("[^\0](?=\n)", joined))

    def but(chars: set[str]) -> str:
        return "[^" + "".join(map(re.escape, sorted(chars))) + "]" if chars else "(?s:.)"

    return (
        f"(?<={but(before_space)})(?={SPACE})"
        f"|(?<=\n)(?={but(after_line)})|(?<={but(before_line)})(?=\n)"
    )


class _Merging(_Words):
    """Merges characters, then pairs, the best pair first and the leftmost among equals."""

    def __init__(self, ids: Mapping[str, int], unknown: Sequence[int]) -> None:
        super().__init__(ids)
        self._ids = ids
        texts = (f"<0x{byte:02X}>" for byte in range(256))
        self._bytes = [[ids[text]] if text in ids else unknown for text in texts]

    def _key(self, left: str, right: str) -> float | None:
        """The lower, the sooner the two are merged; None where they are not."""
        raise NotImplementedError

    def _word(self, word: str) -> list[int]:
        ids: list[int] = []
        for piece in self._merged(word):
            token = self._ids.get(piece)
            if token is not None:
                ids.append(token)
            else:
                for byte in piece.encode():
                    ids += self._bytes[byte]
        return ids

    def _merged(self, word: str) -> list[str]:
        pieces = list(word)
        count = len(pieces)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < count:
                key = self._key(pieces[left], pieces[right])
                if key is not None:
                    heapq.heappush(queue, (key, left, right, pieces[left] + pieces[right]))

        for right in range(1, count):
            offer(right - 1, right)
        while queue:
            _, left, right, text = heapq.heappop(queue)
            if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != text:
                continue  # one of the two has been merged with another since
            pieces[left], pieces[right] = text, ""
            after[left] = after[right]
            if after[right] < count:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [piece for piece in pieces if piece]


class SentencePiece(_Merging):
    """BPE by scores (llm_tokenizer_spm_session). Blanks come as `SPACE`."""

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], unknown: int) -> None:
        super().__init__(ids, [unknown])
        self._scores = scores

    def _key(self, left: str, right: str) -> float | None:
        token = self._ids.get(left + right)
        return None if token is None else -self._scores[token]


class PairMerges(_Merging):
    """BPE by the ranks of pairs, over whole lines (llm_tokenizer_bpe_session for Gemma 4)."""

    def __init__(self, ids: Mapping[str, int], merges: Iterable[str]) -> None:
        super().__init__(ids, [])
        self._ranks: dict[str, int] = {}
        for rank, merge in enumerate(merges):
            self._ranks.setdefault(merge, rank)

    def _key(self, left: str, right: str) -> float | None:
        return self._ranks.get(f"{left} {right}")

    def _word(self, word: str) -> list[int]:
        if not word.strip("\n") and word in self._ids:
            return [self._ids[word]]
        return super()._word(word)


class Unigram(_Words):
    """The most probable tokens (llm_tokenizer_ugm_session)."""

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[int],
        scores: Sequence[float],
        header: Header,
        unknown: int,
    ) -> None:
        self._scores: dict[str, tuple[int, float]] = {}
        least = float("inf")
        for token, (text, kind, score) in enumerate(zip(tokens, types, scores, strict=False)):
            if kind == NORMAL:
                least = min(least, score)
            if kind in {NORMAL, USER_DEFINED, UNUSED}:
                self._scores[text] = token, 0.0 if kind == USER_DEFINED else score
        super().__init__(self._scores)
        self._longest = max(map(len, self._scores), default=0)
        self._unknown, self._unknown_score = unknown, least - _UNKNOWN_PENALTY
        metadata = header.metadata
        self._merge_blanks = bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False))
        self._prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", False))
        self._suffix = self._prefix and bool(
            metadata.get("tokenizer.ggml.treat_whitespace_as_suffix", False)
        )
        charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap")
        self._replacements = _Charsmap(charsmap.tobytes() if isinstance(charsmap, array) else b"")
        each = zip(tokens, types, strict=False)
        user = [text.encode() for text, kind in each if kind == USER_DEFINED]
        self._kept = {text[:end] for text in user for end in range(1, 1 + len(text))}

    def normalized(self, text: str, *, first: bool) -> str:
        """A text as its tokens write it."""
        data = self._replaced(text.encode())
        found: list[str] = []
        in_word, spaced = False, not (first and self._prefix and not self._suffix)
        for char in data:
            if char == " ":
                in_word = False
                if not self._merge_blanks:
                    found.append(SPACE)
                continue
            if not in_word:
                in_word = True
                if not spaced or self._merge_blanks:
                    found.append(SPACE)
                    spaced = True
            found.append(char)
        if self._suffix:
            found.append(SPACE)
        return "".join(found)

    def _replaced(self, data: bytes) -> str:
        found = bytearray()
        at = 0
        while at < len(data):
            kept = 0
            while kept < len(data) - at and data[at : at + kept + 1] in self._kept:
                kept += 1
            if kept:
                found += data[at : at + kept]
                at += kept
                continue
            length, replacement = self._replacements.longest(data, at)
            if not length:
                length = _utf8_length(data[at])
                replacement = data[at : at + length]
            found += replacement
            at += length
        return found.decode("utf-8", "replace")

    def _append(self, ids: list[int], found: list[int]) -> None:
        joined = ids and found and ids[-1] == found[0] == self._unknown
        ids += found[1:] if joined else found

    def _word(self, word: str) -> list[int]:
        best = [(0.0, 0, 0)] + [(float("-inf"), 0, 0)] * len(word)
        for at in range(len(word)):
            base = best[at][0]
            alone = False
            for stop in range(at + 1, min(at + self._longest, len(word)) + 1):
                known = self._scores.get(word[at:stop])
                if known is not None:
                    alone = alone or stop == at + 1
                    if base + known[1] > best[stop][0]:
                        best[stop] = base + known[1], at, known[0]
            if not alone and base + self._unknown_score > best[at + 1][0]:
                best[at + 1] = base + self._unknown_score, at, self._unknown
        ids: list[int] = []
        at = len(word)
        while at > 0:
            _, at, token = best[at]
            if not (token == self._unknown and ids and ids[-1] == token):
                ids.append(token)
        return ids[::-1]


class _Charsmap:
    """SentencePiece's replacements: a double array over bytes, then texts ended by a zero byte.

    An entry of the array has its offset in bits 10 to 30 (shifted by 8 more where bit 9 is set),
    its byte in bits 0 to 7, and whether a replacement follows in bit 8.
    """

    def __init__(self, content: bytes) -> None:
        size = struct.unpack_from("<I", content)[0] if len(content) >= 4 else 0
        size = min(size, max(len(content) - 4, 0)) // 4 * 4
        self._array = struct.unpack_from(f"<{size // 4}I", content, 4) if size else ()
        self._texts = content[4 + size :]

    def longest(self, data: bytes, at: int) -> tuple[int, bytes]:
        """Length and replacement of the longest known text at `at`; 0 where there is none."""
        array = self._array
        if not array:
            return 0, b""
        node, length, found = _offset(array[0]), 0, 0
        for index in range(at, len(data)):
            byte = data[index]
            node ^= byte
            if not byte or node >= len(array) or array[node] & (1 << 31 | 0xFF) != byte:
                break
            entry = array[node]
            node ^= _offset(entry)
            if entry >> 8 & 1 and node < len(array):
                length, found = index + 1 - at, array[node] & ((1 << 31) - 1)
        return length, self._texts[found : self._texts.find(b"\0", found)] if length else b""


def _offset(entry: int) -> int:
    return entry >> 10 << ((entry & 1 << 9) >> 6)


def _utf8_length(first: int) -> int:
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


class WordPiece:
    """The longest tokens of each word, or one unknown token (llm_tokenizer_wpm_session)."""

    _LEFT_OUT = regex.compile(r"(?V1)[\0\ufffd\p{Cc}\p{Cf}\p{Co}\p{Cs}--[\t-\r\x85]]+")
    _IDEOGRAPHS = (
        "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
        "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
    )

    def __init__(self, ids: Mapping[str, int], header: Header, unknown: int) -> None:
        self._ids, self._unknown = ids, unknown
        self._known: dict[str, list[int]] = {}
        self._longest = max(map(len, ids), default=0)
        lowercase = header.metadata.get("tokenizer.ggml.normalizer.lowercase", True)
        self._lowercase = bool(lowercase)
        self._strip = bool(
            header.metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase)
        )
        self._single = regex.compile(rf"(?V1)([\p{{P}}[\p{{S}}&&[\0-\x7e]][{self._IDEOGRAPHS}]])")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text between two of the user's tokens."""
        if self._strip:
            text = "".join(map(_base, text))
            text = regex.sub(r"\p{M}+", "", text)
        text = self._LEFT_OUT.sub("", text)
        if self._lowercase:
            text = "".join(map(_lower, text))
        ids: list[int] = []
        for word in re.split(f"{_BLANKS}+", self._single.sub(r" \1 ", text)):
            if word:
                ids += self._remembered(word)
        return ids

    def _remembered(self, word: str) -> list[int]:
        found = self._known.get(word)
        if found is None:
            if len(self._known) >= _MOST_WORDS:
                self._known.clear()
            found = self._known[word] = self._word(word)
        return found

    def _word(self, word: str) -> list[int]:
        word = SPACE + word
        ids: list[int] = []
        at = 0
        while at < len(word):
            for stop in range(min(len(word), at + self._longest), at, -1):
                token = self._ids.get(word[at:stop])
                if token is not None:
                    ids.append(token)
                    at = stop
                    break
            else:
                return [self._unknown]
        return ids


def _base(char: str) -> str:
    """The first character of a character's canonical decomposition."""
    return char if char.isascii() else unicodedata.normalize("NFD", char)[0]


def _lower(char: str) -> str:
    """The lower case of a character, which is one character."""
    lower = char.lower()
    return lower if len(lower) == 1 else lower[0]


class Rwkv:
    """The longest token at each place, over bytes (llm_tokenizer_rwkv_session)."""

    def __init__(self, contents: Sequence[bytes], unknown: int) -> None:
        self._ids = {content: token for token, content in enumerate(contents)}
        self._unknown = unknown
        lengths: dict[bytes, set[int]] = {}
        for content in contents:
            lengths.setdefault(content[:2], set()).add(len(content))
        self._lengths = {start: sorted(found)[::-1] for start, found in lengths.items()}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text between two of the user's tokens."""
        return list(self._tokens(text.encode()))

    def _tokens(self, data: bytes) -> Iterator[int]:
        at = 0
        while at < len(data):
            lengths = (*self._lengths.get(data[at : at + 2], ()), 1)
            for length in lengths:
                token = self._ids.get(data[at : at + length])
                if token is not None:
                    yield token
                    at += length
                    break
            else:
                yield self._unknown
                at += 1


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(?s:(.)))")
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def unescaped(text: str) -> bytes:
    """The bytes of a token as RWKV's vocabularies write them (llama_unescape_rwkv_token)."""
    return _ESCAPE.sub(
        lambda match: bytes([int(match[1], 16)]) if match[1] else _ESCAPED.get(match[2], match[2]),
        text.encode(),
    )
